/* Included first by bcc; no configuration of a kernel matters to the programs. */
