/* host.c for a network that is loaded as it starts: FILE.so, the bytes of an image, the numbers of an embedding. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int main(int count, char **arguments) {
  void *network = count == 4 ? dlopen(arguments[1], RTLD_NOW) : 0;
  if (!network) return fprintf(stderr, "%s\n", dlerror()), 2;
  int (*init)(void);
  void (*run)(const uint8_t *, float *);
  *(void **)&init = dlsym(network, "reid_init");
  *(void **)&run = dlsym(network, "reid_run");
  size_t bytes = strtoul(arguments[2], 0, 10), size = strtoul(arguments[3], 0, 10);
  uint8_t *image = malloc(bytes);
  float *embedding = malloc(size * sizeof *embedding);
  if (init()) return 3;
  while (fread(image, 1, bytes, stdin) == bytes) {
    run(image, embedding);
    fwrite(embedding, sizeof *embedding, size, stdout);
  }
  free(image);
  free(embedding);
  return 0;
}
