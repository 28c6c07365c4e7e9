/* Commands from standard input as int32, answers as int32: what `test_device_gallery.py` does with both galleries.
 *
 * First capacity, size, crops and zero; then an operation with its arguments, and size bytes of codes for each crop. */
#include <stdio.h>

#include "reid_gallery.h"

enum { SIZE = 2048, CROPS = 16, CAPACITY = 64 };
enum { ENROLL, LEARN, FORGET, IDENTIFY, FOLLOW, DISTANCE };

static uint32_t memory[REID_GALLERY_WORDS(CAPACITY, SIZE, CROPS)];
static int8_t codes[CROPS * SIZE];
static reid_match found[CROPS];

static void answer(reid_match match) {
  const int32_t values[] = {(int32_t)match.identity, match.distance};
  fwrite(values, sizeof *values, 2, stdout);
}

int main(void) {
  int32_t head[4], op[8];
  reid_gallery gallery;
  if (fread(head, 4, 4, stdin) != 4) return 1;
  const size_t size = (size_t)head[1];
  reid_gallery_init(&gallery, memory, head[0], head[1], head[2], head[3]);
  while (fread(op, 4, 8, stdin) == 8) { /* operation, count, identity or frame, same, again, gap, memory, share */
    if (fread(codes, size, (size_t)op[1], stdin) != (size_t)op[1]) return 2;
    const reid_rules rules = {op[3], op[4], (uint32_t)op[5], (uint32_t)op[6], op[7]};
    reid_match match = {0, 0};
    if (op[0] == ENROLL) match.identity = reid_enroll(&gallery, codes);
    if (op[0] == LEARN) match.distance = reid_learn(&gallery, (uint32_t)op[2], codes, op[7]);
    if (op[0] == FORGET) match.distance = reid_forget(&gallery, (uint32_t)op[2]);
    if (op[0] == IDENTIFY) match = reid_identify(&gallery, codes);
    if (op[0] == DISTANCE) match.distance = reid_code_distance(codes, codes + size, (int)size, head[3]);
    if (op[0] != FOLLOW) {
      answer(match);
      continue;
    }
    reid_follow(&gallery, codes, op[1], (uint32_t)op[2], &rules, found);
    for (int i = 0; i < op[1]; i++) answer(found[i]);
  }
  return 0;
}
