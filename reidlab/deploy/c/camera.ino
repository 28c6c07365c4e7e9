/* SPDX-License-Identifier: Apache-2.0 */
/* The first person in view is enrolled, each later one compared with them. Fill in `person_in_view` for your camera. */
#include <reid.h>
#include <reid_camera.h>
#include <reid_gallery.h>

const int WIDTH = 320, HEIGHT = 240, IDENTITIES = 8;
const int WORDS = REID_CROP_WORDS(HEIGHT, WIDTH, REID_IMAGE_HEIGHT, REID_IMAGE_WIDTH);

static uint32_t work[WORDS], memory[REID_GALLERY_WORDS(IDENTITIES, REID_EMBEDDING_SIZE, 1)];
static uint64_t arena[(REID_ARENA_BYTES + 7) / 8];
static uint8_t image[REID_IMAGE_BYTES];
static int8_t codes[REID_EMBEDDING_SIZE];
static reid_gallery gallery;

/* The camera's frame and a box around a person in it; false where there is none. On an ESP32-CAM:
 *   camera_fb_t *fb = esp_camera_fb_get();  // and esp_camera_fb_return(fb) after use
 *   frame = {fb->buf, WIDTH, HEIGHT, 2 * WIDTH, REID_RGB565_BIG, 0}; */
static bool person_in_view(reid_frame &frame, reid_box &box) {
  (void)frame;
  (void)box;
  return false;
}

void setup() {
  Serial.begin(115200);
  if (reid_init()) Serial.println("the flash image is damaged");
  reid_gallery_init(&gallery, memory, IDENTITIES, REID_EMBEDDING_SIZE, 1, REID_EMBEDDING_ZERO);
}

void loop() {
  reid_frame frame;
  reid_box box;
  if (!person_in_view(frame, box)) return;
  if (reid_crop(&frame, reid_clip(&frame, box), image, REID_IMAGE_HEIGHT, REID_IMAGE_WIDTH, work, WORDS)) return;
  reid_run_codes_in(arena, image, codes);
  const reid_match found = reid_identify(&gallery, codes);
  if (!found.identity) reid_enroll(&gallery, codes);
  Serial.println(found.identity ? found.distance / 32768.0 : 0.0, 4);
}
