/* version_build.h: a version while it is being changed: edits in, an immutable lk_version out.
 *
 * lk_version_apply is one edit through it; the replay of a manifest is all of its edits through one
 * of them, so that opening a store lays out one version and not one for each line.
 *
 * Owns      references to the tables of the trees that were touched.
 * Callers   version_build.c (lk_version_apply), manifest.c (replay).
 * Threads   belongs to one. `old` stays alive meanwhile.
 * Errors    LK_CORRUPT: what was asked does not fit. After any error it is only good for free.
 */
#ifndef LK_VERSION_BUILD_H
#define LK_VERSION_BUILD_H

#include "version.h"

typedef struct lk_version_build lk_version_build;

/* `old` may be NULL: begins with nothing. */
lk_status lk_version_build_new(const lk_version *old, lk_env *env, const char *dir, lk_cache *cache,
                               lk_version_build **out, lk_error *err);
void lk_version_build_free(lk_version_build *b); /* NULL is accepted */
/* Tables that `from` holds too are its own, with what they have in memory; it stays alive meanwhile. */
void lk_version_build_share(lk_version_build *b, const lk_version *from);

lk_status lk_version_build_edit(lk_version_build *b, const lk_edit *edit, lk_error *err);

/* The pieces of a state that is written down whole: its tables, then its ranges (made where they
 * are not there) and the tables that stand in each, then the check that each table stands
 * somewhere. */
lk_status lk_version_build_define(lk_version_build *b, const lk_table_meta *meta, uint32_t level,
                                  uint64_t stamp, lk_error *err);
lk_status lk_version_build_range(lk_version_build *b, uint32_t tree, lk_bytes lower, lk_error *err);
lk_status lk_version_build_place(lk_version_build *b, uint32_t tree, lk_bytes lower, uint64_t file,
                                 lk_error *err);
/* Ranges that were deleted. */
lk_status lk_version_build_delete(lk_version_build *b, const lk_tomb *ranges, size_t count,
                                  lk_error *err);
lk_status lk_version_build_whole(const lk_version_build *b, lk_error *err);

lk_status lk_version_build_finish(lk_version_build *b, uint64_t number, lk_version **out,
                                  lk_error *err);

#endif
