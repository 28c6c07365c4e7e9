/* Reset, the two functions of the C library that the model needs, and nothing else. */
#include <stddef.h>
#include <stdint.h>

extern uint32_t data_start[], data_end[], data_load[], bss_start[], bss_end[], stack_low[], stack_top[];
int main(void);
void finish(int status);

#define PAINT 0xA5A5A5A5u
#define COPROCESSOR_ACCESS (*(volatile uint32_t *)0xE000ED88)

__attribute__((noinline)) void *memcpy(void *to, const void *from, size_t count) {
  uint8_t *target = to;
  const uint8_t *source = from;
  for (; count >= 16; count -= 16, target += 16, source += 16) __builtin_memcpy(target, source, 16);
  while (count--) *target++ = *source++;
  return to;
}

__attribute__((noinline)) void *memset(void *to, int value, size_t count) {
  uint8_t *target = to;
  const uint32_t word = 0x01010101u * (uint8_t)value;
  for (; count >= 4; count -= 4, target += 4) __builtin_memcpy(target, &word, 4);
  while (count--) *target++ = (uint8_t)value;
  return to;
}

/* Bytes of stack that have ever been written. */
uint32_t stack_used(void) {
  const uint32_t *word = stack_low;
  while (*word == PAINT) ++word;
  return (uint32_t)((const uint8_t *)stack_top - (const uint8_t *)word);
}

__attribute__((naked)) void reset(void) {
  __asm__("ldr r0, =stack_low\n ldr r1, =stack_top\n ldr r2, =0xA5A5A5A5\n"
          "1: str r2, [r0], #4\n cmp r0, r1\n bne 1b\n b started\n .ltorg");
}

__attribute__((used)) void started(void) {
  COPROCESSOR_ACCESS |= 0xFu << 20; /* the floating-point unit */
  __asm__ volatile("dsb\n isb");
  for (uint32_t *to = data_start, *from = data_load; to != data_end;) *to++ = *from++;
  for (uint32_t *to = bss_start; to != bss_end;) *to++ = 0;
  finish(main());
}

static void fault(void) { finish(2); }

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    stack_top, (void *)reset, (void *)fault, (void *)fault, (void *)fault, (void *)fault, (void *)fault,
};
