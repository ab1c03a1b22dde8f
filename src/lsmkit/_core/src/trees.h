/* trees.h: which trees a store has, and how the tables of each are written; immutable.
 *
 * Tree 0 holds the store's own rows, 1 to 15 are kept for its bookkeeping; they are always there.
 * From 16 on trees are keyspaces, made and dropped by edits. The manifest keeps a text of each, as
 * the property "keyspace/N": lines of `field=value`, of which the first is its name. What a text
 * does not say of tables is as in tree 0; fields that are not known here are other people's.
 *
 * Owns      a lk_trees copies of its texts.
 * Callers   store.c reads it from the manifest; keyspace.c replaces it; flush and compaction ask it.
 * Threads   immutable after it was made; `refs` is atomic.
 * Always    a number is never given twice (the property "next_tree" says which comes next), so that
 *           a record or a job of a tree that is not here belongs to one that was dropped.
 * Errors    LK_CORRUPT for texts of the manifest, LK_INVALID for those of a caller.
 */
#ifndef LK_TREES_H
#define LK_TREES_H

#include <stdatomic.h>

#include "manifest.h"

#define LK_TREE_KEYSPACES 16u /* the first number of a keyspace */

#define LK_TREE_TEXT_PREFIX "keyspace/" /* of the names of properties */
#define LK_TREE_NEXT "next_tree"
#define LK_TREE_PROPERTY_BYTES 32u

typedef struct lk_tree_shape {
    uint64_t table_bytes;
    uint32_t block_bytes, filter_bits, blob_bytes;
    lk_codec codec;
} lk_tree_shape;

typedef struct lk_tree_entry {
    uint32_t tree;
    char *text;
    lk_tree_shape shape;
} lk_tree_entry;

typedef struct lk_trees {
    _Atomic uint32_t refs;
    uint32_t next; /* the number that the next keyspace gets */
    uint32_t count;
    lk_tree_shape shape;  /* of trees that are no keyspaces */
    lk_tree_entry *items; /* keyspaces, by number */
} lk_trees;

lk_status lk_trees_load(const lk_manifest *m, const char *dir, const lk_tree_shape *shape,
                        lk_trees **out, lk_error *err);
/* As `old`, but the tree has this text: a new tree (its number is old->next), or one that is there.
 * `text` NULL: without the tree. LK_EXISTS when another one bears the name. */
lk_status lk_trees_change(const lk_trees *old, uint32_t tree, const char *text, lk_trees **out,
                          lk_error *err);
void lk_trees_ref(lk_trees *t);
void lk_trees_unref(lk_trees *t); /* NULL is accepted */

const lk_tree_entry *lk_trees_find(const lk_trees *t, uint32_t tree); /* NULL: no keyspace */
/* The keyspace whose text begins with this line; NULL: none. */
const lk_tree_entry *lk_trees_named(const lk_trees *t, const char *line);
static inline bool lk_trees_has(const lk_trees *t, uint32_t tree)
{
    return tree < LK_TREE_KEYSPACES || lk_trees_find(t, tree) != NULL;
}
/* How tables of the tree are written. */
const lk_tree_shape *lk_trees_shape(const lk_trees *t, uint32_t tree);

/* The name of the property that keeps the tree's text. */
void lk_trees_property(uint32_t tree, char out[LK_TREE_PROPERTY_BYTES]);

#endif
