/* From standard input, until its end: four sizes and a stride as int32, then rows; the resized images to standard output. */
#include <stdio.h>
#include <stdlib.h>

#include "reid_resize.h"

int main(void) {
  int32_t n[5];
  while (fread(n, sizeof n, 1, stdin) == 1) {
    size_t given = (size_t)n[4] * (size_t)(n[0] - 1) + 3u * (size_t)n[1], made = 3u * (size_t)n[2] * (size_t)n[3];
    uint32_t words = reid_resize_words(n[0], n[1], n[2], n[3]);
    uint8_t *from = malloc(given), *to = malloc(made);
    uint32_t *work = malloc(4u * (size_t)words);
    if (!from || !to || !work || fread(from, 1, given, stdin) != given) return 3;
    if (reid_resize(from, n[0], n[1], n[4], to, n[2], n[3], work, words - 1) != -1) return 4;
    if (reid_resize(from, 0, n[1], n[4], to, n[2], n[3], work, words) != -1) return 5;
    if (reid_resize(from, n[0], n[1], n[4], to, n[2], 8192, work, words) != -1) return 5;
    if (reid_resize(from, n[0], n[1], n[4], to, n[2], n[3], work, words) != 0) return 6;
    fwrite(to, 1, made, stdout);
    free(from);
    free(to);
    free(work);
  }
  return 0;
}
