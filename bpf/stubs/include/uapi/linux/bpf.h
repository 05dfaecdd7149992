/* bcc brings its own bpf.h, already included. */
