/* Files and messages of the machine that the emulator runs on. */
#include <stddef.h>
#include <stdint.h>

enum { READ_BINARY = 1, WRITE_BINARY = 5 };

/* A file of the working directory; below 0 where it can't be opened. */
intptr_t open_file(const char *name, intptr_t mode);

/* Both return the number of bytes that were left over. */
intptr_t read_file(intptr_t file, void *bytes, size_t count);
intptr_t write_file(intptr_t file, const void *bytes, size_t count);

/* Print a line "stack N": the bytes of stack in use so far. */
void print_stack(void);

/* The plugin counts up to the entry of this. */
void measured(void);
