/* version.h: which tables exist, for each tree, by key range and age; immutable.
 *
 * A tree's keys are cut into ranges. A range holds runs, newest first (level ascending, then stamp
 * descending); a run is a list of tables whose keys do not overlap. One table may stand in several
 * ranges (a flush writes one run over all of them); within a range it speaks only for keys of that
 * range, and compaction takes it out range by range. So a cut inside a run costs nothing, and a
 * point read is: find the range, ask its runs in order.
 *
 *   tree 0   | range ""          | range "k"               | range "t"      |
 *   level 0  |  [ table 9 ............................................... ] |   stamp 9
 *   level 0  |                   | [ table 7 ............................ ] |   stamp 7
 *   last     | [ t 3 ] [ t 4 ]   | [ t 5 ]                 | [ t 6 ]        |
 *
 * Leveled compaction keeps one range whose runs are its levels.
 *
 * A tree that an edit does not touch is shared by the versions before and after it. A changed one is
 * laid out anew in one allocation, in the order in which a read walks it: heads of ranges, ranges,
 * then range by range its runs, each followed by the heads of its tables' bounds. A head is the
 * lk_key_prefix of a key behind the bytes that all keys of the list have in common; it decides
 * nearly every comparison, so a read does not touch the keys themselves.
 *
 * Beside them stand the range tombstones that may hide a row of a table: a skyline for each tree. One
 * leaves as soon as no table in its way has an older row that it was not applied to (version_tombs.c).
 *
 * A tree's tables may refer to values that stand apart, in files (blob.h) that are known here too: such a
 * file belongs to one tree, and leaves with the last table that uses it.
 *
 * Owns      a lk_tree_version one reference to each of its tables and to its list of files of values; a
 *           lk_version one to each tree's.
 * Callers   manifest.c makes versions; view.c, cursor.c, compact.c and the border read them.
 * Threads   immutable after lk_version_apply; `refs` is atomic.
 */
#ifndef LK_VERSION_H
#define LK_VERSION_H

#include <stdatomic.h>

#include "bytes.h"
#include "status.h"
#include "table.h"
#include "tombs.h"

#define LK_LEVEL_LAST 15u /* the last run of lazy leveling */
#define LK_TREE_MAX (1u << 20)

#define LK_FILE_MAX (UINT64_C(1) << 62) /* file numbers and stamps are smaller */

typedef struct lk_run {
    uint32_t level;
    uint32_t count;        /* at least 1 */
    uint64_t stamp;        /* from the same counter as file numbers; newer is larger */
    lk_table **tables;     /* in key order */
    const uint64_t *heads; /* of each table's greatest key, then of each table's least; behind them
                              the `skip` bytes that all keys between them begin with */
    uint32_t skip;
} lk_run;

typedef struct lk_range {
    lk_bytes lower; /* inclusive; "" for the first. The next range's lower is the upper end */
    uint32_t run_count;
    lk_run *runs; /* newest first */
} lk_range;

/* A table of a tree, once, however many ranges it stands in; level and stamp are the same in all. */
typedef struct lk_tree_file {
    uint64_t file;
    lk_table *table;
    uint64_t stamp;
    uint32_t level;
    uint32_t ranges; /* how many it stands in */
} lk_tree_file;

typedef struct lk_tree_version {
    _Atomic uint32_t refs; /* versions that share it */
    uint32_t tree;
    uint32_t range_count;
    uint64_t number;       /* of the version that it was laid out for: tells whether it changed */
    uint32_t skip;         /* bytes that all lower bounds but the first begin with */
    lk_range *ranges;      /* at least one; in key order */
    const uint64_t *heads; /* of each lower bound, without those bytes, for the search */
    const uint8_t *prefix; /* those bytes */
    lk_tree_file *files;   /* by file number */
    lk_tombs *tombs;       /* NULL: no range is deleted, as a rule */
    lk_blob_files *blobs;  /* files of values that its tables refer to; NULL: none */
    uint32_t file_count;
    size_t bytes; /* memory held, but for the skyline */
} lk_tree_version;

typedef struct lk_version {
    _Atomic uint32_t refs;
    uint64_t number;     /* edits applied since the store was made */
    uint64_t max_file;   /* greatest file number that it or one before it held */
    uint32_t tree_count; /* trees[i] is tree i's, or NULL where it has no tables and was not
                                   cut into ranges */
    lk_tree_version **trees;
} lk_version;

/* ---- edits: what a flush, a compaction or the program changes, all at once ---- */

typedef struct lk_edit_add {
    lk_table_meta meta; /* owned by the edit */
    uint32_t level;
    uint64_t stamp;
    lk_table *table; /* optional, a reference owned by the edit: an already open table of that
                            file (the one just written, or one that moves) */
} lk_edit_add;

typedef struct lk_edit_remove {
    uint32_t tree;
    uint64_t file;
    lk_bytes lower; /* of the range it leaves; owned by the edit */
} lk_edit_remove;

typedef struct lk_edit_cut {
    uint32_t tree;
    lk_bytes at; /* a new range begins here (split), or the range that begins here is
                            joined to the one before it (join); owned by the edit */
} lk_edit_cut;

typedef struct lk_edit_property {
    char *name;  /* owned by the edit */
    char *value; /* NULL: removed */
} lk_edit_property;

typedef struct lk_edit {
    uint64_t log_retired; /* segments up to this generation are no longer needed; 0: as before */
    uint64_t last_seq;    /* highest sequence in tables; 0: as before */
    uint64_t durable_generation, durable_end; /* clean close: the log is durable to here; 0: - */
    bool clean;                               /* the store was closed, everything is in tables */
    size_t remove_count, join_count, split_count, add_count, property_count, drop_count;
    size_t delete_count;
    size_t capacity[7]; /* of the arrays, in the order above */
    lk_edit_remove *removes;
    lk_edit_cut *joins;
    lk_edit_cut *splits;
    lk_edit_add *adds;
    lk_edit_property *properties;
    uint32_t *drops;  /* trees whose tables all go */
    lk_tomb *deletes; /* ranges of keys whose older rows are gone; keys owned by the edit */
    lk_snapshots
        snapshots; /* borrowed, not written: the snapshots that there are; deletes that only they
                           see are kept for them. Whoever reads the manifest later has none */
} lk_edit;

void lk_edit_init(lk_edit *e);
void lk_edit_deinit(lk_edit *e); /* may be used again after it */
/* Each copies its bytes. When one fails, the edit is as it was before. */
lk_status lk_edit_remove_table(lk_edit *e, uint32_t tree, lk_bytes lower, uint64_t file,
                               lk_error *err);
lk_status lk_edit_join(lk_edit *e, uint32_t tree, lk_bytes at, lk_error *err);
lk_status lk_edit_split(lk_edit *e, uint32_t tree, lk_bytes at, lk_error *err);
/* Takes over `meta` (zeroes the caller's) and one reference of `table`, when not NULL; when it fails
 * both stay the caller's. */
lk_status lk_edit_add_table(lk_edit *e, lk_table_meta *meta, uint32_t level, uint64_t stamp,
                            lk_table *table, lk_error *err);
/* `value` NULL removes the property. Both are UTF-8, up to LK_PROPERTY_NAME_MAX and
 * LK_PROPERTY_VALUE_MAX bytes, a name at least one; else LK_INVALID. The last of equal names wins. */
#define LK_PROPERTY_NAME_MAX 1024u
#define LK_PROPERTY_VALUE_MAX (128u << 10)
lk_status lk_edit_set(lk_edit *e, const char *name, const char *value, lk_error *err);
lk_status lk_edit_drop(lk_edit *e, uint32_t tree, lk_error *err);
/* Deletes the files of the tables that an edit adds, which will not be published. What stays behind is
 * removed at the next open, because nothing names it. */
void lk_edit_unlink_added(const lk_edit *e, lk_env *env, const char *dir);
/* Rows with a smaller sequence and a key in the range are hidden from now on. */
lk_status lk_edit_delete_range(lk_edit *e, const lk_tomb *range, lk_error *err);
/* Takes out all that the edit says of tables and ranges of trees that `has` denies. */
void lk_edit_keep_trees(lk_edit *e, bool (*has)(const void *context, uint32_t tree),
                        const void *context);

/* ---- versions ---- */

lk_version *lk_version_empty(void); /* NULL: no memory */
void lk_version_ref(lk_version *v);
/* The last one unrefs the tables; those that no version holds any more were declared obsolete by
 * lk_version_apply's caller, and go. NULL is accepted. */
void lk_version_unref(lk_version *v);

/* The version after `edit`: drops, removes, joins, splits, adds, deletes, in this order. An added table is
 * put into every range of its tree that its keys touch; it is a new one, or one that this edit took
 * out of every range (it moves). Tables of `old` are shared; new ones are made with lk_table_new
 * unless the edit brings them. An edit that does not fit (a table that is not there, runs that would
 * overlap, a split at an existing bound, a join of ranges where a table that reaches over the bound
 * stands only on one side and would speak again for keys that it has left) is LK_CORRUPT, and
 * nothing is made. A drop takes away the tree's cuts too. */
lk_status lk_version_apply(const lk_version *old, const lk_edit *edit, lk_env *env, const char *dir,
                           lk_cache *cache, lk_version **out, lk_error *err);

/* Declares obsolete each table and file of values of `old` that `new` does not hold. Call once `new` is durable. */
void lk_version_retire(const lk_version *old, const lk_version *new_version);

static inline const lk_tree_version *lk_version_tree(const lk_version *v, uint32_t tree)
{
    return tree < v->tree_count ? v->trees[tree] : NULL;
}

/* Where the tree's large values stand; NULL: none does. */
static inline const lk_blob_files *lk_version_blobs(const lk_version *v, uint32_t tree)
{
    const lk_tree_version *t = lk_version_tree(v, tree);
    return t == NULL ? NULL : t->blobs;
}

/* Whether some tree uses the file of values of that number. */
bool lk_version_uses_blob(const lk_version *v, uint64_t file);

/* That table of the tree, or NULL. */
const lk_tree_file *lk_tree_version_file(const lk_tree_version *t, uint64_t file);

/* Bytes of a table whose rows are hidden by range tombstones from all who see at least up to `seq`,
 * estimated from its keys: 0: there are none; all of its bytes: every row is hidden. */
uint64_t lk_tree_version_covered(const lk_tree_version *t, const lk_table *table, uint64_t seq);

/* One line for each range, run and table, to `print`; keys in hexadecimal. */
void lk_version_dump(const lk_version *v, void (*print)(void *context, const char *line),
                     void *context);

/* The index of the range that holds `key`. */
uint32_t lk_tree_version_range(const lk_tree_version *t, const uint8_t *key, size_t key_len);

/* The table of a run that may hold `key` (by its bounds), or NULL. */
lk_table *lk_run_table(const lk_run *run, const uint8_t *key, size_t key_len);

/* First table of a run whose greatest key is not less than `key`; `count` when there is none. */
uint32_t lk_run_seek(const lk_run *run, const uint8_t *key, size_t key_len);

#endif
