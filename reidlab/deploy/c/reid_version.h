/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of this folder that all networks share were written by. Generated. */
#ifndef REID_VERSION_H
#define REID_VERSION_H

#define REID_VERSION "$version"
#define REID_VERSION_NUMBER $version_number     /* 10000 * major + 100 * minor + patch */
#define REID_KERNELS ${kernels}u     /* changes with the kernels; a network's tables fit these alone */

#endif
