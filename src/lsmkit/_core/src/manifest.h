/* manifest.h: the log of edits: the only file that says what exists.
 *
 * One JSON object a line, behind its checksum, which is seeded with the checksum of the line before:
 *
 *   9c1f0e7a52b3d846 {"edit":12,"last_seq":4711,"log_retired":3,"add":[{"tree":0,"file":17,...}]}
 *
 * Keys are hexadecimal. `CURRENT` names the live manifest; a new one begins with the whole state and
 * takes over by write, fsync, rename, fsync of the directory.
 *
 * Owns      the manifest's file, the current lk_version, the properties, the file number counter.
 * Threads   lk_manifest_append: one at a time (the caller holds the store's edit lock), and so the
 *           property functions, whose texts are good until the next append that sets properties; of
 *           a manifest that is followed, until it is closed. Everything else: any.
 * Errors    a failed append or sync leaves the manifest failed: every later append returns the
 *           first error, and reopening finds the state before that edit or the one after it.
 *           LK_CORRUPT names file, offset and what was found.
 */
#ifndef LK_MANIFEST_H
#define LK_MANIFEST_H

#include "version.h"

typedef struct lk_manifest lk_manifest;
struct lk_manifest_state;
struct lk_properties;

/* Properties that the core itself keeps, beside those of the program. */
#define LK_PROPERTY_STORE_ID "store_id" /* random; a checkpoint has that of its source */
#define LK_PROPERTY_CHECKPOINT                                                                     \
    "checkpoint" /* set: nobody has opened it to write since it was made */

typedef struct lk_manifest_options {
    uint64_t rotate_bytes; /* a manifest larger than this, and than twice its first lines' state, is
                              written anew by the next append; a clean close does so from a 16th of
                              it on, because its reader waits for it. 0: 4 MiB */
    size_t line_bytes;     /* longest line of a state, about; 0: 1 MiB */
    bool settle_later; /* lk_manifest_settle is called before anything depends on the last edit */
    bool read_only;    /* nothing is cut, written or removed; may be beside a live owner */
} lk_manifest_options;

/* True when `dir` holds a CURRENT. */
lk_status lk_manifest_exists(lk_env *env, const char *dir, bool *out, lk_error *err);

/* A new store's manifest; durable when it returns. LK_EXISTS where there is one. `options` may be
 * NULL here and in lk_manifest_open. */
lk_status lk_manifest_create(lk_env *env, const char *dir, const lk_manifest_options *options,
                             lk_cache *cache, lk_manifest **out, lk_error *err);

/* Reads CURRENT and replays the edits; LK_NOT_FOUND where there is no CURRENT. A torn last line
 * (power was lost before its sync) is cut; any other damage is LK_CORRUPT. Unless read_only, the last
 * edit is on the disk when it returns, whatever became of the sync of the process that wrote it, and
 * manifests that a crash left behind are gone. */
lk_status lk_manifest_open(lk_env *env, const char *dir, const lk_manifest_options *options,
                           lk_cache *cache, lk_manifest **out, lk_error *err);
/* After an opening with `settle_later`: the same is true when it returns. Not beside an append, which
 * does it itself, first. Does nothing when it was done. */
lk_status lk_manifest_settle(lk_manifest *m, lk_error *err);
void lk_manifest_close(lk_manifest *m); /* NULL is accepted */
/* Of one opened read_only: reads what its owner has added since, also where a new file has taken
 * over. Tables that were there before stay the same objects. After an error it is as it was.
 * *out_properties tells whether a property was set or removed. One at a time. */
lk_status lk_manifest_follow(lk_manifest *m, bool *out_properties, lk_error *err);

/* Writes and syncs the edit, then makes its version the current one. On success, and only then,
 * *out (`out` may be NULL) is the new version with a reference, and tables that it lacks are declared
 * obsolete. The caller has synced the files that the edit names, and their directory.
 * LK_CORRUPT (the edit does not fit) and LK_INVALID (it would be longer than LK_EDIT_BYTES_MAX) come
 * before anything is written and leave the manifest as it was. After any other error the edit may
 * be found on reopening: the files that it names must stay. */
#define LK_EDIT_BYTES_MAX (64u << 20)
lk_status lk_manifest_append(lk_manifest *m, const lk_edit *edit, lk_version **out, lk_error *err);

lk_version *lk_manifest_version(lk_manifest *m); /* with a reference */
uint64_t lk_manifest_next_file(lk_manifest *m);  /* a number never given before, also after a
                                                    crash: files found in the directory count */
uint64_t lk_manifest_last_seq(const lk_manifest *m);
uint64_t lk_manifest_log_retired(const lk_manifest *m);
bool lk_manifest_was_clean(const lk_manifest *m); /* the last line replayed was a clean close */
void lk_manifest_durable(const lk_manifest *m, uint64_t *out_generation, uint64_t *out_end);
const char *lk_manifest_property(const lk_manifest *m, const char *name); /* NULL: not set */
size_t lk_manifest_property_count(const lk_manifest *m);
void lk_manifest_property_at(const lk_manifest *m, size_t i, const char **name, const char **value);
/* What a manifest of the same state in another directory would say: copies, and a reference to the
 * version. The caller holds the edit lock. */
lk_status lk_manifest_copy_state(lk_manifest *m, lk_version **out_version,
                                 struct lk_properties *out_properties,
                                 struct lk_manifest_state *out_state, lk_error *err);
/* A file of this number is in the directory, perhaps made by a process that crashed before it said so
 * here: the counter passes it. */
void lk_manifest_saw_file(lk_manifest *m, uint64_t file);

/* Each line of the live manifest, with its checksum, which was checked, to `print`: the JSON begins
 * behind the first space. */
lk_status lk_manifest_dump(lk_env *env, const char *dir,
                           void (*print)(void *context, const char *line), void *context,
                           lk_error *err);

#endif
