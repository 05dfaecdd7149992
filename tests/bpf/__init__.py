"""BPF programs run by PROG_TEST_RUN, and a few live packets."""
