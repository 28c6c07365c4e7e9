/* $name: $height x $width image in, $size floats out. Generated; the integration is in README.md. */
#ifndef REID_H
#define REID_H

#include <stdint.h>

#define REID_IMAGE_HEIGHT $height
#define REID_IMAGE_WIDTH $width
#define REID_IMAGE_CHANNELS $channels
#define REID_IMAGE_BYTES (REID_IMAGE_HEIGHT * REID_IMAGE_WIDTH * REID_IMAGE_CHANNELS)
#define REID_INPUT_SCALE $input_scale   /* a byte of the image stands for REID_INPUT_SCALE * (byte - REID_INPUT_ZERO) */
#define REID_INPUT_ZERO $input_zero
#define REID_EMBEDDING_SIZE $size
#define REID_ARENA_BYTES $arena_bytes      /* static RAM */
#define REID_WEIGHT_BYTES $weight_bytes     /* flash: int8 weights and int32 biases */
#define REID_TABLE_BYTES $table_bytes      /* flash: multipliers and shifts of each channel */

#ifdef __cplusplus
extern "C" {
#endif

/* 0 if the constants in flash are those that were exported. */
int reid_init(void);

/* RGB pixels, row by row, 3 bytes each -> the embedding. Not reentrant: there is one arena. */
void reid_run(const uint8_t image[REID_IMAGE_BYTES], float embedding[REID_EMBEDDING_SIZE]);

#ifdef __cplusplus
}
#endif

#endif
