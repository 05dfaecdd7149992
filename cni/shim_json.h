// The shim's words: a bounded writer of JSON text, a scanner for the two top-level keys it needs, and the name checks.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#define SHIM_SOCKET_MAX 108 // sizeof(sockaddr_un.sun_path), the closing zero included
#define SHIM_VERSION_MAX 32
#define ESCAPED_MAX 600 // of one foreign text in an error message, in bytes

struct text { char *at; size_t length, room; };

struct shim_config {
    char cni_version[SHIM_VERSION_MAX];
    char socket[SHIM_SOCKET_MAX];
    const char *socket_problem; // NULL = the socket is usable
};

// Cuts silently; always leaves a zero behind the text.
static void put_bytes(struct text *out, const char *from, size_t length) {
    size_t left = out->room - out->length - 1;
    if (length > left) length = left;
    memcpy(out->at + out->length, from, length);
    out->at[out->length += length] = 0;
}

static void put(struct text *out, const char *from) { put_bytes(out, from, strlen(from)); }

static void put_number(struct text *out, unsigned value) {
    char digits[12];
    size_t at = sizeof(digits);
    do digits[--at] = (char)('0' + value % 10); while (value /= 10);
    put_bytes(out, digits + at, sizeof(digits) - at);
}

// Whatever is not plain ASCII goes out as \u00XX, so the object is valid JSON whatever the environment held.
static void put_escaped(struct text *out, const char *from) {
    static const char hex[] = "0123456789abcdef";
    for (size_t end = out->length + ESCAPED_MAX; *from && out->length + 6 <= end; from++) {
        unsigned char c = (unsigned char)*from;
        char escape[] = {'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]};
        bool plain = c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
        put_bytes(out, plain ? from : escape, plain ? 1 : sizeof(escape));
    }
}

// A decoded string; `whole` is false if it was cut or has what we do not decode (surrogates, a zero byte).
struct token { char text[SHIM_SOCKET_MAX]; size_t length; bool whole; };

static void token_add(struct token *token, unsigned byte) {
    if (byte == 0 || token->length + 1 >= sizeof(token->text)) token->whole = false;
    else token->text[token->length++] = (char)byte;
}

// p stands on the 'u' of \uXXXX; returns the place of its last digit.
static const char *scan_unicode(const char *p, const char *end, struct token *token) {
    unsigned value = 0;
    if (end - p < 5) return end;
    for (int i = 0; i < 4; i++) {
        char c = *++p;
        if (c >= '0' && c <= '9') value = value * 16 + (unsigned)(c - '0');
        else if ((c | 32) >= 'a' && (c | 32) <= 'f') value = value * 16 + (unsigned)((c | 32) - 'a' + 10);
        else return end; // not JSON
    }
    if (value >= 0xd800 && value < 0xe000) token->whole = false;
    else if (value < 0x80) token_add(token, value);
    else if (value < 0x800) token_add(token, 0xc0 | value >> 6), token_add(token, 0x80 | (value & 63));
    else token_add(token, 0xe0 | value >> 12), token_add(token, 0x80 | (value >> 6 & 63)), token_add(token, 0x80 | (value & 63));
    return p;
}

// p stands behind the opening quote; returns the place of the closing one, or end if there is none.
static const char *scan_string(const char *p, const char *end, struct token *token) {
    static const char escapes[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    token->length = 0;
    token->whole = true;
    for (; p < end && *p != '"'; p++) {
        if (*p != '\\') {
            token_add(token, (unsigned char)*p);
            continue;
        }
        if (++p >= end) return end;
        const char *known = *p ? strchr(escapes, *p) : NULL;
        if (known) token_add(token, (unsigned char)meanings[known - escapes]);
        else if (*p == 'u') p = scan_unicode(p, end, token);
        else return end; // not JSON
        if (p >= end) return end;
    }
    token->text[token->length] = 0;
    return p;
}

// A version goes into our own answers as it is, so only plain ones are taken; the agent refuses the others.
static void take_version(const struct token *token, struct shim_config *config) {
    for (size_t i = 0; i < token->length; i++) {
        char c = token->text[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || strchr(".+-", c))) return;
    }
    if (token->whole && token->length && token->length < SHIM_VERSION_MAX)
        memcpy(config->cni_version, token->text, token->length + 1);
}

static void take_socket(const struct token *token, struct shim_config *config) {
    config->socket_problem = NULL;
    if (!token->whole) config->socket_problem = "socket: longer than 107 bytes or not plain text";
    else if (token->length && token->text[0] != '/') config->socket_problem = "socket: not an absolute path";
    else if (token->length) memcpy(config->socket, token->text, token->length + 1);
}

// One flat pass that counts brackets: only strings directly in the outermost object are looked at, the last of two equal
// keys wins. Broken JSON ends it early, with the defaults or what was seen: the agent is the one to say what is wrong.
static void scan_config(const char *p, const char *end, struct shim_config *config) {
    enum { OTHER, VERSION, SOCKET } key = OTHER;
    struct token token;
    int depth = 0;
    bool key_next = false;
    for (; p < end; p++) {
        switch (*p) {
        case '{': key_next = depth++ == 0; break;
        case '[': if (depth++ == 0) return; break;
        case '}': case ']': if (--depth <= 0) return; break;
        case ',': key_next = depth == 1; break;
        case ':': key_next = false; break;
        case '"':
            p = scan_string(p + 1, end, &token);
            if (p >= end) return;
            if (depth == 0) return;
            if (depth > 1) break;
            if (!key_next && key == VERSION) take_version(&token, config);
            if (!key_next && key == SOCKET) take_socket(&token, config);
            key = !key_next || !token.whole ? OTHER : !strcmp(token.text, "cniVersion") ? VERSION
                : !strcmp(token.text, "socket") ? SOCKET : OTHER;
        }
    }
}

// [a-zA-Z0-9][a-zA-Z0-9_.-]*: also what makes it safe as a file's name.
static bool is_container_id(const char *id) {
    for (const char *p = id; *p; p++) {
        bool alphanumeric = (*p >= '0' && *p <= '9') || (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z');
        if (!alphanumeric && (p == id || !strchr("_.-", *p))) return false;
    }
    return *id;
}

static bool is_ifname(const char *name) {
    size_t length = strlen(name);
    if (length == 0 || length > 15 || !strcmp(name, ".") || !strcmp(name, "..")) return false;
    for (; *name; name++)
        if (*name == '/' || *name == ':' || *name == 0x7f || (*name > 0 && *name <= ' ')) return false;
    return true;
}
