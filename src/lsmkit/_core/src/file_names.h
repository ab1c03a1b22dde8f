/* file_names.h: which files of a directory are lsmkit's, by their names and by what stands in them.
 *
 * Callers   checkpoint.c, destroy.c and repair.c, which meet directories that no manifest vouches for.
 * Threads   none of its own.
 */
#ifndef LK_FILE_NAMES_H
#define LK_FILE_NAMES_H

#include "env.h"
#include "status.h"

#define LK_LOST_DIR "lost" /* within a store: what repair could not use */

typedef enum lk_file_kind {
    LK_FILE_OTHER, /* not one of ours */
    LK_FILE_CURRENT,
    LK_FILE_CURRENT_NEXT, /* CURRENT.tmp */
    LK_FILE_LOCK,
    LK_FILE_PULSE,
    LK_FILE_MANIFEST,
    LK_FILE_TABLE,
    LK_FILE_BLOB,
    LK_FILE_LOG,
} lk_file_kind;

/* What a name says; `out_number` (may be NULL) is that of a manifest, table, file of values or log. Only the names
 * that lsmkit itself makes: 7.sst is none, 000007.sst is one. */
lk_file_kind lk_file_kind_of(const char *name, uint64_t *out_number);

/* Whether what stands in the file proves that lsmkit wrote it: LevelDB and RocksDB use the same
 * names. Damage at the place of the proof, and a log segment that was never used, prove nothing. */
lk_status lk_file_is_ours(lk_env *env, const char *dir, const char *name, bool *out, lk_error *err);

/* `dir`/`name`, or LK_INVALID when it is longer than LK_PATH_MAX. */
lk_status lk_path_join(const char *dir, const char *name, char out[LK_PATH_MAX], lk_error *err);
/* Takes the lock of a directory that is, or becomes, a store's: LK_LOCKED names the directory. */
lk_status lk_dir_lock(lk_env *env, const char *dir, lk_lock_file **out, lk_error *err);
/* The directory that `path` stands in; "." when it names none. */
void lk_path_parent(const char *path, char out[LK_PATH_MAX]);

#endif
