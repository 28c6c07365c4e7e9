# SPDX-License-Identifier: Apache-2.0
if(CONFIG_$PREFIX)
  set(source $${CMAKE_CURRENT_LIST_DIR}/../src)
  zephyr_include_directories($${source})
  # The files that all networks of a program share
  if(NOT TARGET reid_shared)
    zephyr_library_named(reid_shared)
    zephyr_library_sources($${source}/reid_kernels.c $${source}/reid_resize.c $${source}/reid_camera.c
                           $${source}/reid_distance.c $${source}/reid_gallery.c)
    zephyr_library_compile_options(-O3)
  endif()
  zephyr_library_named(${prefix}_network)
  zephyr_library_sources($${source}/${prefix}_model.c)
  if(EXISTS $${source}/${prefix}_self_test.c)
    zephyr_library_sources($${source}/${prefix}_self_test.c)
  endif()
endif()
