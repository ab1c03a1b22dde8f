/* version_blobs.h: which files of values the tables of a tree use, and how much of them.
 *
 * Callers   version_build.c, for each tree that was changed.
 * Threads   none of its own.
 * Errors    LK_CORRUPT: two tables say different things of one file.
 */
#ifndef LK_VERSION_BLOBS_H
#define LK_VERSION_BLOBS_H

#include "version.h"

/* Sets `t->blobs`, which is NULL. Files that `old` (may be NULL) has are taken from there: there is one
 * lk_blob_file of each. */
lk_status lk_version_blobs_gather(lk_tree_version *t, const lk_tree_version *old, lk_env *env,
                                  const char *dir, lk_error *err);

#endif
