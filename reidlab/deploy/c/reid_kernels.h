/* SPDX-License-Identifier: Apache-2.0 */
/* Integer kernels for int8 networks, and the executor that streams rows of pixels through them.
 *
 * A network is a list of stages. A stage is a short chain (or tree) of nodes; only the last node's output is kept whole,
 * the others keep the few rows that their consumer still needs, in a ring. Every kernel computes one row of its output
 * from pointers to rows of its inputs. Layout is height, width, channel; numbers are those of the TFLite reference
 * kernels, bit for bit.
 */
#ifndef REID_KERNELS_H
#define REID_KERNELS_H

#include <stdint.h>

enum { REID_MAX_WINDOW = 64, REID_MAX_NODES = 24 };

/* Offsets that mean "the caller's image" and "the caller's output" instead of a place in the arena. */
#define REID_IMAGE 0xFFFFFFFFu
#define REID_OUTPUT 0xFFFFFFFEu

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  uint32_t offset;    /* in the arena */
  uint16_t rows;      /* how many are kept: all of them, or a ring's */
  uint16_t row_bytes;
} reid_rows;

typedef void reid_kernel(const void *params, const int8_t *const *rows, int8_t *out, void *scratch);

typedef struct {
  reid_kernel *kernel;
  const void *params;
  reid_rows in[2], out;
  int8_t source[2];   /* position in the stage of the node that makes in[i]; -1: it is complete */
  uint8_t window;     /* rows of in[0] for one output row; 0: all of them, by one pointer to the output row's number */
  uint8_t stride;
  int16_t pad;        /* rows above in[0], or, below 0, its rows that are left out */
  uint16_t height;    /* rows of in[0] in all */
} reid_node;

typedef struct {
  const reid_node *nodes;
  uint32_t scratch;   /* offset of the work space in the arena */
  uint16_t count, rows;
} reid_stage;

/* `arena` is aligned to 8 bytes. */
void reid_execute(const reid_stage *stages, int count, int8_t *arena, const uint8_t *image, float *out);

/* Adler-32 of some bytes, continued from a start value (1 at first). */
uint32_t reid_checksum(const void *bytes, uint32_t count, uint32_t start);

/* Multiplier and shift stand for multiplier * 2^(-31 - shift); a negative shift goes left. */
typedef struct {
  const void *weights;      /* int8 [out_channels][kernel_h][kernel_w][channels], each output padded to a multiple of 8 */
  const int32_t *bias;      /* or NULL */
  const int32_t *multiplier;
  const int8_t *shift;
  uint32_t flip;            /* 0x80808080 turns uint8 pixels into int8, 0 leaves int8 as it is */
  int16_t in_zero, out_zero;
  uint16_t channels, out_channels, in_width, out_width;
  uint8_t kernel_h, kernel_w, stride, pad_left;
} reid_conv;

typedef struct {
  const int8_t *weights;    /* [channels][kernel_h * kernel_w]; 3x3 in the order that reid_depthwise3 explains */
  const int32_t *bias;      /* with the input's zero point folded in */
  const int32_t *multiplier;
  const int8_t *shift;
  int16_t in_zero, out_zero;
  uint16_t channels, in_width, out_width;
  uint8_t kernel_h, kernel_w, stride, pad_left;
} reid_depthwise;

typedef struct {
  const int8_t *weights;
  const int32_t *bias;
  const int32_t *multiplier;
  const int8_t *shift;
  int16_t in_zero, out_zero;
  uint16_t inputs, outputs;
  uint8_t scales;           /* 1: a multiplier and a shift for each output, 0: one for all */
} reid_dense;

typedef struct {
  int32_t multiplier, out_multiplier; /* of the input with the smaller scale and of the sum */
  int8_t shift, out_shift;
  int16_t zero[3];
  uint16_t count;
} reid_sum;

typedef struct {
  reid_sum sum;
  const int8_t *constant;   /* in place of the second input, or NULL */
  int8_t sign[2];           /* of the input with the larger scale, and of the other */
  uint8_t larger;           /* which input that is */
  uint16_t period;          /* the second input repeats every `period` elements */
} reid_signed_sum;

typedef struct {
  const int8_t *constant;   /* in place of the second factor, or NULL */
  int32_t multiplier;
  int8_t shift;
  int16_t zero[3];
  uint16_t count, period;   /* the second factor repeats every `period` elements */
} reid_product;

typedef struct {
  const int8_t *constant;   /* in place of the second input, or NULL */
  uint8_t is_least;         /* 1: the lesser of both, 0: the greater */
  uint16_t count, period;   /* the second input repeats every `period` elements */
} reid_extreme;

typedef struct {
  const int8_t *slopes;
  int32_t multiplier[2];    /* at and above zero, and below, where it rescales products with slopes */
  int8_t shift[2];
  int16_t zero[3];          /* of the input, the slopes and the output */
  uint16_t count, period;   /* the slopes repeat every `period` elements */
} reid_prelu;

typedef struct {
  int32_t multiplier;
  int8_t shift;
  int16_t in_zero, out_zero;
  uint16_t pixels, channels;
} reid_average;

typedef struct {
  uint16_t pixels, channels; /* of a row */
} reid_totals;

typedef struct {
  uint16_t channels, in_width, out_width;
  uint8_t kernel_h, kernel_w, stride, pad_left;
} reid_window;

typedef struct {
  uint16_t count;
} reid_pixels;

typedef struct {
  int8_t value;
  uint16_t row_bytes, left_bytes, right_bytes, count; /* so often in a row: once around it, or around each pixel */
} reid_border;

typedef struct {
  uint16_t bytes[2], count; /* of each input in turn */
} reid_join;

typedef struct {
  uint16_t first, take, step, count; /* `take` bytes from each of first, first + step, ... */
} reid_slice;

typedef struct {
  uint16_t bytes, count;    /* each run of so many bytes, so many of them, */
  uint8_t times, rows;      /* so often, and all that again */
} reid_repeat;

typedef struct {
  uint32_t steps[2];        /* bytes from one pixel to the next, and from one channel to the next */
  uint16_t width, channels;
  int8_t flip;              /* -128 turns uint8 pixels into int8, 0 leaves int8 as it is */
} reid_transpose;

typedef struct {
  const int8_t *codes;      /* of -128, -127, ... */
  uint16_t count;
} reid_table;

typedef struct {
  int8_t low, high;
  uint16_t count;
} reid_range;

typedef struct {
  int32_t multiplier;
  int8_t shift;
  int16_t in_zero, out_zero;
  uint16_t count;
} reid_scale;

typedef struct {
  int32_t multiplier, limit;
  int8_t shift;
  int16_t in_zero;
  uint16_t count, pixels;
} reid_curve;

typedef struct {
  float scale;
  int16_t zero;
  uint16_t count;
} reid_float;

reid_kernel reid_conv_row, reid_depthwise3_row, reid_depthwise_row, reid_dense_row, reid_sum_row, reid_signed_sum_row,
    reid_product_row, reid_extreme_row, reid_prelu_row, reid_average_all, reid_totals_row, reid_average_totals_row, reid_average_pool_all,
    reid_max_pool_row, reid_average_pool_row, reid_pixels_row, reid_border_row, reid_join_row, reid_slice_row,
    reid_repeat_row, reid_transpose_row, reid_table_row, reid_range_row, reid_scale_row, reid_logistic_row,
    reid_softmax_row, reid_float_row;

#ifdef __cplusplus
}
#endif

#endif
