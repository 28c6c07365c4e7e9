/* Reads images from images.bin through semihosting, writes their embeddings to embeddings.bin. */
#include "reid.h"

extern uint32_t stack_used(void);

enum { OPEN = 0x01, WRITE0 = 0x04, WRITE = 0x05, READ = 0x06, EXIT = 0x18, EXIT_EXTENDED = 0x20 };
enum { READ_BINARY = 1, WRITE_BINARY = 5 };

static uint8_t image[REID_IMAGE_BYTES] __attribute__((section(".host"), aligned(4)));
static float embedding[REID_EMBEDDING_SIZE] __attribute__((section(".host")));

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

static intptr_t open_file(const char *name, int length, int mode) {
  const intptr_t arguments[] = {(intptr_t)name, mode, length};
  return host(OPEN, arguments);
}

/* Both return the number of bytes that were left over. */
static intptr_t transfer(int operation, intptr_t file, const void *bytes, int count) {
  const intptr_t arguments[] = {file, (intptr_t)bytes, count};
  return host(operation, arguments);
}

static void print_stack(void) {
  char text[] = "stack 0000000000\n";
  uint32_t value = stack_used();
  for (int i = 15; value; --i, value /= 10) text[i] = (char)('0' + value % 10);
  host(WRITE0, text);
}

/* The plugin counts from the entry of reid_run to the entry of this. */
__attribute__((noinline)) void measured(void) { __asm__ volatile(""); }

int main(void) {
  const intptr_t images = open_file("images.bin", 10, READ_BINARY);
  const intptr_t embeddings = open_file("embeddings.bin", 14, WRITE_BINARY);
  if (images < 0 || embeddings < 0) return 4;
  if (reid_init()) return 3;
  while (transfer(READ, images, image, REID_IMAGE_BYTES) == 0) {
    reid_run(image, embedding);
    measured();
    if (transfer(WRITE, embeddings, embedding, sizeof embedding)) return 5;
  }
  print_stack();
  return 0;
}
