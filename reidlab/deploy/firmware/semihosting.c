#include "semihosting.h"

extern uint32_t stack_used(void);

enum { OPEN = 0x01, WRITE0 = 0x04, WRITE = 0x05, READ = 0x06, EXIT_EXTENDED = 0x20 };

static intptr_t host(intptr_t operation, const void *arguments) {
  register intptr_t r0 __asm__("r0") = operation;
  register const void *r1 __asm__("r1") = arguments;
  __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

void finish(int status) {
  const intptr_t arguments[] = {0x20026, status};
  host(EXIT_EXTENDED, arguments);
  for (;;) {
  }
}

intptr_t open_file(const char *name, intptr_t mode) {
  intptr_t length = 0;
  while (name[length]) ++length;
  const intptr_t arguments[] = {(intptr_t)name, mode, length};
  return host(OPEN, arguments);
}

static intptr_t transfer(int operation, intptr_t file, const void *bytes, size_t count) {
  const intptr_t arguments[] = {file, (intptr_t)bytes, (intptr_t)count};
  return host(operation, arguments);
}

intptr_t read_file(intptr_t file, void *bytes, size_t count) { return transfer(READ, file, bytes, count); }

intptr_t write_file(intptr_t file, const void *bytes, size_t count) { return transfer(WRITE, file, bytes, count); }

void print_stack(void) {
  char text[] = "stack 0000000000\n";
  uint32_t value = stack_used();
  for (int i = 15; value; --i, value /= 10) text[i] = (char)('0' + value % 10);
  host(WRITE0, text);
}

__attribute__((noinline)) void measured(void) { __asm__ volatile(""); }
