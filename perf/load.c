/*
 * Load over one TCP connection at a time, IPv4 and IPv6.
 *
 *   load serve PORT                      a server for all modes, on every address
 *   load rr|crr|up|down ADDR PORT SECONDS
 *
 * A client's first byte says what it wants: 'e' and every later byte comes back, 's' all is swallowed, 'd' the server
 * sends until the connection ends. The client prints one line: "OPERATIONS SECONDS P50_US P99_US" for rr (a byte there
 * and back) and crr (connect, a byte there and back, close), "BYTES SECONDS" for up and down (from the client's view).
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CHUNK (256 * 1024)
#define MAX_SAMPLES (4 * 1024 * 1024)
#define STUCK_S 5

static char chunk[CHUNK];
static uint32_t samples[MAX_SAMPLES];

static void die(const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1000000000ull + at.tv_nsec;
}

static void no_delay(int fd)
{
	int on = 1;

	if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)))
		die("TCP_NODELAY");
}

/* Linux's own default: BBR, which some machines prefer, paces by timers, and streams would measure those. */
static void use_cubic(int fd)
{
	if (setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "cubic", 5))
		die("cubic");
}

/* A peer that hangs must end the run with a message, not hold it for ever. */
static void time_out(int fd)
{
	struct timeval limit = {.tv_sec = STUCK_S};

	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)))
		die("timeouts");
}

static void swallow(int fd)
{
	while (recv(fd, chunk, sizeof(chunk), 0) > 0)
		;
}

static void send_on(int fd)
{
	while (send(fd, chunk, sizeof(chunk), 0) > 0)
		;
}

/* The bytes after the first come back one by one; the peer closes first and so has the TIME_WAIT. */
static void echo(int fd)
{
	char byte = 'e';

	do {
		if (send(fd, &byte, 1, 0) != 1)
			return;
	} while (recv(fd, &byte, 1, 0) == 1);
}

static void serve(const char *port)
{
	struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(port)), .sin6_addr = in6addr_any};
	int on = 1, off = 0, listener = socket(AF_INET6, SOCK_STREAM, 0);

	if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) ||
	    setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)) ||
	    bind(listener, (struct sockaddr *)&any, sizeof(any)) || listen(listener, 128))
		die("listen");
	use_cubic(listener);
	puts("ready");
	fflush(stdout);
	for (;;) {
		int fd = accept(listener, NULL, NULL);
		char mode = 0;

		if (fd < 0)
			die("accept");
		no_delay(fd);
		time_out(fd);
		if (recv(fd, &mode, 1, 0) == 1) {
			if (mode == 'e')
				echo(fd);
			else if (mode == 's')
				swallow(fd);
			else if (mode == 'd')
				send_on(fd);
		}
		close(fd);
	}
}

static int dial(const struct addrinfo *to, char mode)
{
	int fd = socket(to->ai_family, SOCK_STREAM, 0);

	if (fd < 0)
		die("socket");
	use_cubic(fd);
	no_delay(fd);
	time_out(fd);
	if (connect(fd, to->ai_addr, to->ai_addrlen))
		die("connect");
	if (send(fd, &mode, 1, 0) != 1)
		die("send");
	return fd;
}

static void expect_byte(int fd)
{
	char byte;

	if (recv(fd, &byte, 1, 0) != 1)
		die("no answer");
}

static int by_value(const void *one, const void *two)
{
	uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)two;

	return (a > b) - (a < b);
}

static void tell_operations(uint64_t count, uint64_t spent)
{
	uint64_t kept = count < MAX_SAMPLES ? count : MAX_SAMPLES;

	if (kept == 0)
		die("not one operation");
	qsort(samples, kept, sizeof(*samples), by_value);
	printf("%llu %.6f %.3f %.3f\n", (unsigned long long)count, spent / 1e9, samples[kept / 2] / 1e3,
	       samples[kept * 99 / 100] / 1e3);
}

static void request_response(const struct addrinfo *to, uint64_t span, int connects)
{
	uint64_t begin, at, before, count = 0;
	int fd = connects ? -1 : dial(to, 'e');

	if (fd >= 0)
		expect_byte(fd);
	begin = at = now_ns();
	while (at - begin < span) {
		before = at;
		if (connects)
			fd = dial(to, 'e');
		else if (send(fd, "e", 1, 0) != 1)
			die("send");
		expect_byte(fd);
		if (connects)
			close(fd);
		at = now_ns();
		if (count < MAX_SAMPLES)
			samples[count] = at - before;
		count++;
	}
	tell_operations(count, at - begin);
}

static void stream(const struct addrinfo *to, uint64_t span, int up)
{
	uint64_t begin, at, bytes = 0;
	int fd = dial(to, up ? 's' : 'd');

	begin = at = now_ns();
	while (at - begin < span) {
		ssize_t done = up ? send(fd, chunk, sizeof(chunk), 0) : recv(fd, chunk, sizeof(chunk), 0);

		if (done <= 0)
			die("stream");
		bytes += done;
		at = now_ns();
	}
	printf("%llu %.6f\n", (unsigned long long)bytes, (at - begin) / 1e9);
}

int main(int argc, char **argv)
{
	struct addrinfo *to, how = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
	const char *mode = argc > 1 ? argv[1] : "";

	signal(SIGPIPE, SIG_IGN);
	if (argc == 3 && !strcmp(mode, "serve"))
		serve(argv[2]);
	if (argc != 5 || getaddrinfo(argv[2], argv[3], &how, &to)) {
		fprintf(stderr, "usage: load serve PORT | load rr|crr|up|down ADDR PORT SECONDS\n");
		return 2;
	}
	uint64_t span = strtod(argv[4], NULL) * 1e9;

	if (!strcmp(mode, "rr") || !strcmp(mode, "crr"))
		request_response(to, span, mode[0] == 'c');
	else if (!strcmp(mode, "up") || !strcmp(mode, "down"))
		stream(to, span, mode[0] == 'u');
	else
		return 2;
	return 0;
}
