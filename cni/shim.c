// The CNI executable that the container runtime calls: one frame to the agent, one answer to stdout (see README.md).
// Static, without stdio, malloc or name service: a pod's start waits for it. Every large buffer is in .bss and costs
// only the pages that are touched; standard input is read straight into the frame.
#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h> // renameat only
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "shim_json.h"

#ifndef __GLIBC__
#define strerrordesc_np strerror // musl's is as plain; glibc's would bring in its locales
#endif
#ifndef ANSWER_TIMEOUT_MS
#define ANSWER_TIMEOUT_MS 30000 // the agent's own deadline is 20 s, the kubelet's 240 s
#endif
#define CONNECT_MS 5000 // an agent restart takes less; a new sandbox would cost the kubelet more
#define CONNECT_DEL_MS 300 // a DEL need not wait: it can be spooled
#define PAUSE_FIRST_MS 5
#define PAUSE_MAX_MS 100
#define REQUEST_HEADER 8
#define ANSWER_HEADER 12
#define MAX_BODY (1 << 20)
#define MAGIC "DRG1"

enum { BAD_ENVIRONMENT = 4, IO_FAILURE = 5, BAD_CONFIG = 7, TRY_AGAIN = 11 };

static char request[REQUEST_HEADER + MAX_BODY + 1]; // one byte more than may be sent, to notice what does not fit
static size_t request_length;
static char answer[ANSWER_HEADER + MAX_BODY];
static struct shim_config config = {.cni_version = "1.1.0", .socket = "/run/dragline/agent.sock"};

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int64_t now_ms(void) { return (int64_t)(now_ns() / 1000000u); }

static const char *environment(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

static int write_all(int fd, const char *from, size_t length) {
    while (length) {
        ssize_t n = write(fd, from, length);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -1;
        from += n, length -= (size_t)n;
    }
    return 0;
}

// Prints a CNI error object "<what>: <subject>: <errno's text>" and ends; subject "" and error 0 are left out.
static _Noreturn void fail(unsigned code, const char *what, const char *subject, int error) {
    static char buffer[2048];
    struct text out = {buffer, 0, sizeof(buffer)};
    put(&out, "{\"cniVersion\":\""), put(&out, config.cni_version), put(&out, "\",\"code\":"), put_number(&out, code);
    put(&out, ",\"msg\":\""), put_escaped(&out, what);
    if (*subject) put(&out, ": "), put_escaped(&out, subject);
    if (error) put(&out, ": "), put_escaped(&out, strerrordesc_np(error));
    put(&out, "\"}");
    write_all(STDOUT_FILENO, out.at, out.length);
    _exit(1);
}

static _Noreturn void print_versions(void) {
    static char buffer[256];
    struct text out = {buffer, 0, sizeof(buffer)};
    put(&out, "{\"cniVersion\":\""), put(&out, config.cni_version);
    put(&out, "\",\"supportedVersions\":[\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}");
    _exit(write_all(STDOUT_FILENO, out.at, out.length) ? 1 : 0);
}

static void append_u32(size_t at, size_t value) {
    uint32_t wire = htole32((uint32_t)value);
    memcpy(request + at, &wire, sizeof(wire));
}

// The kernel allows 128 KiB for one environment string where pages have 4 KiB, and so all six fit; 2 MiB with 64 KiB pages.
static void append_field(const char *value) {
    size_t length = strlen(value);
    if (request_length + 4 + length + 4 > REQUEST_HEADER + MAX_BODY)
        fail(BAD_ENVIRONMENT, "the environment is larger than 1 MiB", "", 0);
    append_u32(request_length, length);
    memcpy(request + request_length + 4, value, length);
    request_length += 4 + length;
}

// The runtime owns the pipe and closes it, so reading to the end needs no timeout of its own. Returns the content's place.
static size_t append_config(void) {
    size_t start = request_length + 4;
    request_length = start;
    while (request_length < sizeof(request)) {
        ssize_t n = read(STDIN_FILENO, request + request_length, sizeof(request) - request_length);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno != EBADF) fail(IO_FAILURE, "cannot read the network configuration", "", errno);
        if (n <= 0) break; // a closed stdin (EBADF) is an empty configuration: the agent will say what is missing
        request_length += (size_t)n;
    }
    append_u32(start - 4, request_length - start);
    memcpy(request, MAGIC, 4);
    append_u32(4, request_length - REQUEST_HEADER);
    return start;
}

static int connect_agent(int64_t budget_ms) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    memcpy(to.sun_path, config.socket, sizeof(to.sun_path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    int64_t deadline = now_ms() + budget_ms;
    for (int64_t pause = PAUSE_FIRST_MS;; pause = pause * 2 < PAUSE_MAX_MS ? pause * 2 : PAUSE_MAX_MS) {
        if (connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0) return fd;
        int why = errno;
        int64_t left = deadline - now_ms();
        bool restarting = why == ENOENT || why == ECONNREFUSED || why == EAGAIN || why == EINTR;
        if (!restarting || left <= 0) {
            close(fd);
            errno = why;
            return -1;
        }
        poll(NULL, 0, (int)(pause < left ? pause : left));
    }
}

static int wait_for(int fd, short events, int64_t deadline) {
    int64_t left = deadline - now_ms();
    struct pollfd one = {.fd = fd, .events = events};
    int ready = left > 0 ? poll(&one, 1, (int)left) : 0;
    if (ready == 0) errno = ETIMEDOUT;
    return ready > 0 || (ready < 0 && errno == EINTR) ? 0 : -1;
}

// Sends the frame, the descriptor (-1 = none) with its first byte.
static int send_request(int fd, int netns_fd, int64_t deadline) {
    union { struct cmsghdr header; char room[CMSG_SPACE(sizeof(int))]; } control = {0};
    for (size_t sent = 0; sent < request_length;) {
        struct iovec rest = {request + sent, request_length - sent};
        struct msghdr message = {.msg_iov = &rest, .msg_iovlen = 1};
        if (sent == 0 && netns_fd >= 0) {
            message.msg_control = &control, message.msg_controllen = sizeof(control);
            control.header.cmsg_len = CMSG_LEN(sizeof(int));
            control.header.cmsg_level = SOL_SOCKET, control.header.cmsg_type = SCM_RIGHTS;
            memcpy(CMSG_DATA(&control.header), &netns_fd, sizeof(int));
        }
        ssize_t n = sendmsg(fd, &message, MSG_NOSIGNAL);
        if (n >= 0) sent += (size_t)n;
        else if (errno == EAGAIN) { if (wait_for(fd, POLLOUT, deadline)) return -1; }
        else if (errno != EINTR) return -1;
    }
    return 0;
}

// The answer's exit code, its body left in `answer` (length in *body); -1 if none came whole. Nothing is printed before.
static int receive_answer(int fd, int64_t deadline, size_t *body) {
    uint32_t head[2] = {0};
    for (size_t have = 0;;) {
        if (have >= ANSWER_HEADER) {
            memcpy(head, answer + 4, sizeof(head));
            *body = le32toh(head[1]);
            errno = EPROTO;
            if (memcmp(answer, MAGIC, 4) || *body > MAX_BODY) return -1;
            if (have >= ANSWER_HEADER + *body) break;
        }
        if (wait_for(fd, POLLIN, deadline)) return -1;
        ssize_t n = recv(fd, answer + have, sizeof(answer) - have, 0);
        if (n > 0) have += (size_t)n;
        else if (n == 0) { errno = ECONNRESET; return -1; }
        else if (errno != EINTR && errno != EAGAIN) return -1;
    }
    uint32_t code = le32toh(head[0]);
    return code > 255 ? 1 : (int)code; // exit() would cut it to eight bits, and 256 would become success
}

static int ask(int fd, int netns_fd, size_t *body) {
    int64_t deadline = now_ms() + ANSWER_TIMEOUT_MS;
    int code = send_request(fd, netns_fd, deadline) ? -1 : receive_answer(fd, deadline, body);
    int why = errno;
    close(fd);
    errno = why;
    return code;
}

static _Noreturn void print_answer(int code, size_t body) {
    _exit(write_all(STDOUT_FILENO, answer + ANSWER_HEADER, body) && !code ? 1 : code);
}

// mkdir -p of everything before the last '/' of path, for root alone.
static void make_parents(const char *path) {
    char part[SHIM_SOCKET_MAX + 16];
    for (size_t i = 1; path[i] && i < sizeof(part); i++) {
        if (path[i] != '/') continue;
        memcpy(part, path, i);
        part[i] = 0;
        mkdir(part, 0700); // its failure shows when the folder is opened
    }
}

// The file that replaces `name`: whole and on disk before it has that name.
static int write_durably(int folder, const char *draft, const char *name) {
    int fd = openat(folder, draft, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) return -1;
    bool whole = !write_all(fd, request, request_length) && !fsync(fd);
    int why = errno;
    close(fd);
    if (whole && !renameat(folder, draft, folder, name)) return fsync(folder);
    if (whole) why = errno;
    unlinkat(folder, draft, 0);
    errno = why;
    return -1;
}

// A DEL without an agent is written down, and so succeeds. The agent drains the spool before and after it begins to
// listen; one that came up while we wrote has perhaps drained already: that is what the second connect is for.
static _Noreturn void spool_del(const char *container_id, const char *ifname, int netns_fd, int why_not) {
    char path[SHIM_SOCKET_MAX + 16], name[256], draft[256];
    struct text folder_text = {path, 0, sizeof(path)}, name_text = {name, 0, sizeof(name)};
    struct text draft_text = {draft, 0, sizeof(draft)};
    if (!is_container_id(container_id)) fail(BAD_ENVIRONMENT, "CNI_CONTAINERID is missing or invalid", container_id, 0);
    if (!is_ifname(ifname)) fail(BAD_ENVIRONMENT, "CNI_IFNAME is missing or invalid", ifname, 0);
    if (strlen(container_id) > 200) fail(BAD_ENVIRONMENT, "CNI_CONTAINERID is too long", container_id, 0);
    put_bytes(&folder_text, config.socket, (size_t)(strrchr(config.socket, '/') + 1 - config.socket));
    put(&folder_text, "spool/");
    put(&name_text, container_id), put(&name_text, "-"), put(&name_text, ifname), put(&name_text, ".del");
    put(&draft_text, "."), put(&draft_text, name), put(&draft_text, "."), put_number(&draft_text, (unsigned)getpid());
    make_parents(path);
    int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0 || write_durably(folder, draft, name)) fail(IO_FAILURE, "cannot spool the DEL", path, errno);
    if (why_not == ETIMEDOUT) // it listens and hangs: the record is kept, and the runtime may try again
        fail(TRY_AGAIN, "the dragline agent did not answer in time, the DEL is spooled", config.socket, 0);
    size_t body = 0;
    int fd = connect_agent(0);
    int code = fd < 0 ? -1 : ask(fd, netns_fd, &body);
    if (code < 0) _exit(0);
    if (code == 0) unlinkat(folder, name, 0); // after an error it stays: the runtime hears of it, the next drain repeats
    print_answer(code, body);
}

// Unset, not a number or above ten minutes: the default.
static int64_t connect_budget(void) {
    const char *text = environment("DRAGLINE_CONNECT_MS");
    int64_t value = 0;
    for (const char *p = text; *p; p++) {
        if (*p < '0' || *p > '9' || value > 600000) return CONNECT_MS;
        value = value * 10 + (*p - '0');
    }
    return *text && value <= 600000 ? value : CONNECT_MS;
}

// -1 if the verb has none. Opened here once, never by path again: the agent may live in another mount namespace.
static int open_netns(bool required, const char *path) {
    if (!*path) return -1; // where it is required the agent names everything that is missing at once
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && required) fail(BAD_ENVIRONMENT, "cannot open CNI_NETNS", path, errno);
    return fd;
}

int main(void) {
    uint64_t started_ns = now_ns(); // first of all: a DEL that began later must win against an ADD of the same container
    const char *command = environment("CNI_COMMAND"), *netns = environment("CNI_NETNS");
    const char *container_id = environment("CNI_CONTAINERID"), *ifname = environment("CNI_IFNAME");
    uint64_t wire_ns = htole64(started_ns);
    memcpy(request + REQUEST_HEADER, &wire_ns, sizeof(wire_ns));
    request_length = REQUEST_HEADER + sizeof(wire_ns);
    append_field(command), append_field(container_id), append_field(netns), append_field(ifname);
    append_field(environment("CNI_ARGS")), append_field(environment("CNI_PATH"));
    size_t start = append_config();
    scan_config(request + start, request + request_length, &config);

    bool is_del = !strcmp(command, "DEL"), needs_netns = !strcmp(command, "ADD") || !strcmp(command, "CHECK");
    if (!strcmp(command, "VERSION")) print_versions();
    if (!is_del && !needs_netns && strcmp(command, "GC") && strcmp(command, "STATUS"))
        fail(BAD_ENVIRONMENT, *command ? "unknown CNI_COMMAND" : "CNI_COMMAND is missing", command, 0);
    if (request_length == sizeof(request)) fail(BAD_CONFIG, "the network configuration is larger than 1 MiB", "", 0);
    if (config.socket_problem) fail(BAD_CONFIG, config.socket_problem, "", 0);

    int netns_fd = is_del || needs_netns ? open_netns(needs_netns, netns) : -1;
    int64_t budget = connect_budget();
    int fd = connect_agent(is_del && budget > CONNECT_DEL_MS ? CONNECT_DEL_MS : budget);
    size_t body = 0;
    int code = fd < 0 ? -1 : ask(fd, netns_fd, &body);
    if (code >= 0) print_answer(code, body);
    int why = errno;
    if (is_del) spool_del(container_id, ifname, netns_fd, fd < 0 ? 0 : why);
    fail(TRY_AGAIN, fd < 0 ? "the dragline agent is away" : "the dragline agent gave no whole answer", config.socket, why);
}
