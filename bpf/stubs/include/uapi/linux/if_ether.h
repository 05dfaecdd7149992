/* Nothing of it is used: bpf/lib/parse.h has the headers. */
