/* Operations on a gallery from commands.bin, answers to answers.bin, both of int32: see `run_gallery`.
 *
 * First capacity, size, crops and zero; then an operation with its arguments, and size bytes of codes for each crop. */
#include "reid_gallery.h"
#include "semihosting.h"

enum { GALLERY_WORDS = 96 * 1024, CROPS = 16, CODES = CROPS * 2048 };
enum { ENROLL, LEARN, FORGET, IDENTIFY, FOLLOW, DISTANCE };

static uint32_t memory[GALLERY_WORDS];
static int8_t codes[CODES];
static reid_match found[CROPS];

int main(void) {
  int32_t head[4], op[8];
  reid_gallery gallery;
  const intptr_t commands = open_file("commands.bin", READ_BINARY), answers = open_file("answers.bin", WRITE_BINARY);
  if (commands < 0 || answers < 0 || read_file(commands, head, sizeof head)) return 4;
  if (REID_GALLERY_WORDS(head[0], head[1], head[2]) > GALLERY_WORDS || head[2] * head[1] > CODES) return 6;
  reid_gallery_init(&gallery, memory, head[0], head[1], head[2], head[3]);
  /* operation, count, identity or frame, same, again, gap, memory, share */
  while (read_file(commands, op, sizeof op) == 0) {
    const size_t bytes = (size_t)(op[1] * head[1]);
    if (bytes && read_file(commands, codes, bytes)) return 4;
    const reid_rules rules = {op[3], op[4], (uint32_t)op[5], (uint32_t)op[6], op[7]};
    int count = 1;
    found[0].identity = 0;
    found[0].distance = 0;
    switch (op[0]) {
      case ENROLL: found[0].identity = reid_enroll(&gallery, codes); break;
      case LEARN: found[0].distance = reid_learn(&gallery, (uint32_t)op[2], codes, op[7]); break;
      case FORGET: found[0].distance = reid_forget(&gallery, (uint32_t)op[2]); break;
      case IDENTIFY: found[0] = reid_identify(&gallery, codes); break;
      case DISTANCE: found[0].distance = reid_code_distance(codes, codes + head[1], head[1], head[3]); break;
      default:
        count = op[1];
        reid_follow(&gallery, codes, count, (uint32_t)op[2], &rules, found);
    }
    measured();
    if (count && write_file(answers, found, (size_t)count * sizeof *found)) return 5;
  }
  print_stack();
  return 0;
}
