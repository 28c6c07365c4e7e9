/* Two networks in one program: the first's image from standard input, then its codes, its embedding, and what it says. */
#include <stdio.h>

#include "gate.h"
#include "reid.h"

static uint8_t image[REID_IMAGE_BYTES];
static int8_t codes[REID_EMBEDDING_SIZE];
static float embedding[REID_EMBEDDING_SIZE];
static uint64_t arena[((REID_ARENA_BYTES > GATE_ARENA_BYTES ? REID_ARENA_BYTES : GATE_ARENA_BYTES) + 7) / 8];

int main(void) {
  if (reid_init() || gate_init() || reid_self_test(arena) || gate_self_test(arena)) return 1;
  if (fread(image, 1, sizeof image, stdin) != sizeof image) return 2;
  reid_run_codes(image, codes);
  reid_run(image, embedding);
  for (int i = 0; i < REID_EMBEDDING_SIZE; i++)
    if (embedding[i] != REID_EMBEDDING_SCALE * (float)(codes[i] - REID_EMBEDDING_ZERO)) return 3;
  gate_run_codes_in(arena, image, codes);
  fwrite(embedding, 1, sizeof embedding, stdout);
  fwrite(codes, 1, sizeof codes, stdout);
  fprintf(stderr, "%s %d %.6f %.6f", REID_VERSION, REID_VERSION_NUMBER, (double)reid_distance(embedding, embedding),
          (double)(GATE_COSINE_THRESHOLD));
  return 0;
}
