/* SPDX-License-Identifier: Apache-2.0 */
#include "reid_camera.h"

static uint8_t byte(int32_t value) { return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value); }

/* BT.601, in units of 1 / 65536. */
static void rgb_of_yuv(int32_t y, int32_t u, int32_t v, int is_limited, uint8_t *rgb) {
  static const int32_t factors[2][5] = {{65536, 91881, -22554, -46802, 116130}, {76309, 104597, -25675, -53279, 132201}};
  const int32_t *factor = factors[is_limited ? 1 : 0];
  const int32_t light = (y - (is_limited ? 16 : 0)) * factor[0] + 32768;
  u -= 128;
  v -= 128;
  rgb[0] = byte((light + factor[1] * v) >> 16);
  rgb[1] = byte((light + factor[2] * u + factor[3] * v) >> 16);
  rgb[2] = byte((light + factor[4] * u) >> 16);
}

void reid_pixel(const reid_frame *frame, int x, int y, uint8_t rgb[3]) {
  const uint8_t *row = frame->pixels + (int64_t)y * frame->stride;
  if (frame->format == REID_RGB888) {
    for (int i = 0; i < 3; i++) rgb[i] = row[3 * x + i];
  } else if (frame->format == REID_RGB565 || frame->format == REID_RGB565_BIG) {
    const int is_big = frame->format == REID_RGB565_BIG;
    const int value = row[2 * x + !is_big] << 8 | row[2 * x + is_big];
    const int r = value >> 11, g = value >> 5 & 63, b = value & 31;
    rgb[0] = (uint8_t)(r << 3 | r >> 2);
    rgb[1] = (uint8_t)(g << 2 | g >> 4);
    rgb[2] = (uint8_t)(b << 3 | b >> 2);
  } else {
    const int luma = frame->format == REID_UYVY, chroma = !luma; /* which byte of two comes first */
    const uint8_t *pair = row + 4 * (x / 2);
    rgb_of_yuv(row[2 * x + luma], pair[chroma], pair[2 + chroma], frame->is_limited, rgb);
  }
}

reid_box reid_clip(const reid_frame *frame, reid_box box) {
  const int right = box.left + box.width, bottom = box.top + box.height;
  if (box.left < 0) box.left = 0;
  if (box.top < 0) box.top = 0;
  box.width = (right < frame->width ? right : frame->width) - box.left;
  box.height = (bottom < frame->height ? bottom : frame->height) - box.top;
  if (box.width < 0) box.width = 0;
  if (box.height < 0) box.height = 0;
  return box;
}

typedef struct {
  const reid_frame *frame;
  reid_box box;
  uint8_t *line;
} crop;

static const uint8_t *row_of_crop(const void *source, int y) {
  const crop *c = source;
  for (int x = 0; x < c->box.width; x++) reid_pixel(c->frame, c->box.left + x, c->box.top + y, c->line + 3 * x);
  return c->line;
}

int reid_crop(const reid_frame *frame, reid_box box, uint8_t *to, int new_height, int new_width, uint32_t *work,
              uint32_t words) {
  const reid_box inside = reid_clip(frame, box);
  const uint32_t line = (3 * (uint32_t)box.width + 3) / 4;
  if (inside.left != box.left || inside.top != box.top || inside.width != box.width || inside.height != box.height ||
      words < line)
    return -1;
  const crop source = {frame, box, (uint8_t *)work};
  return reid_resize_rows(row_of_crop, &source, box.height, box.width, to, new_height, new_width, work + line,
                          words - line);
}
