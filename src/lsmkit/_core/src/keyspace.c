/* keyspace.c: makes, changes and drops the keyspaces of an open store; trees.h says what they are.
 *
 * Owns      nothing; the store owns its lk_trees, which is replaced here under edit_lock.
 * Callers   the border; background.c before it publishes what a flush or a compaction has brought.
 * Always    an edit is on the disk before the store knows of its keyspace, so that no record is
 *           written for a tree that a crash could take away. A drop throws away, with the tables,
 *           what the log still holds: flush and recovery know no such tree any more.
 * Errors    a failed manifest write stays in the store, as after a flush.
 */
#include <stdio.h>

#include "check.h"
#include "store.h"

lk_trees *lk_store_trees(lk_store *s)
{
    lk_lock_acquire(&s->trees_lock);
    lk_trees *t = s->trees;
    lk_trees_ref(t);
    lk_lock_release(&s->trees_lock);
    return t;
}

/* edit_lock is held; takes over the reference. */
static void replace_trees(lk_store *s, lk_trees *fresh)
{
    lk_lock_acquire(&s->trees_lock);
    lk_trees *old = s->trees;
    s->trees = fresh;
    lk_lock_release(&s->trees_lock);
    lk_trees_unref(old);
}

lk_status lk_store_reload_trees(lk_store *s, lk_error *err)
{
    lk_trees *fresh;
    lk_lock_acquire(&s->edit_lock);
    lk_status st = lk_trees_load(s->manifest, s->dir, &s->trees->shape, &fresh, err);
    if (st == LK_OK) replace_trees(s, fresh);
    lk_lock_release(&s->edit_lock);
    return st;
}

static lk_status unknown_tree(const lk_store *s, uint32_t tree, lk_error *err)
{
    return lk_fail(err, LK_NOT_FOUND, 0, s->dir, 0, 0, tree, "there is no keyspace %u", tree);
}

/* What the change says in the manifest. `next` is the tree's number where it is a new one. */
static lk_status fill_edit(lk_edit *edit, uint32_t tree, const char *text, bool is_new,
                           lk_error *err)
{
    lk_status st = LK_OK;
    char name[LK_TREE_PROPERTY_BYTES], number[LK_TREE_PROPERTY_BYTES];
    lk_trees_property(tree, name);
    LK_TRY(lk_edit_set(edit, name, text, err));
    if (is_new) {
        (void)snprintf(number, sizeof number, "%u", tree + 1);
        LK_TRY(lk_edit_set(edit, LK_TREE_NEXT, number, err));
    }
    if (text == NULL) LK_TRY(lk_edit_drop(edit, tree, err));
done:
    return st;
}

/* edit_lock is held. */
static lk_status change_locked(lk_store *s, uint32_t tree, const char *text, lk_error *err)
{
    lk_status st = LK_OK;
    lk_trees *fresh = NULL;
    lk_edit edit;
    lk_edit_init(&edit);
    bool is_new = tree == s->trees->next;
    if (tree >= LK_TREE_MAX) {
        st = lk_fail(err, LK_INVALID, 0, s->dir, 0, LK_TREE_MAX, tree,
                     "all numbers of keyspaces were given");
        goto done;
    }
    /* All that needs memory comes before the edit: behind it the tree must be known. */
    LK_TRY(lk_trees_change(s->trees, tree, text, &fresh, err));
    LK_TRY(fill_edit(&edit, tree, text, is_new, err));
    LK_TRY(lk_store_publish_locked(s, &edit, err));
    replace_trees(s, fresh);
    fresh = NULL;
done:
    lk_trees_unref(fresh);
    lk_edit_deinit(&edit);
    return st;
}

/* `tree` 0: a new one. */
static lk_status change(lk_store *s, uint32_t tree, const char *text, uint32_t *out_tree,
                        lk_error *err)
{
    lk_error failed = {0};
    if (s->options.read_only) {
        return lk_fail(err, LK_READONLY, 0, s->dir, 0, 0, 0, "the store was opened read-only");
    }
    lk_status st = lk_store_failure(s, err);
    if (st != LK_OK) return st;
    lk_lock_acquire(&s->edit_lock);
    if (tree == 0) {
        tree = s->trees->next;
    } else if (lk_trees_find(s->trees, tree) == NULL) {
        st = unknown_tree(s, tree, &failed);
    }
    if (st == LK_OK) st = change_locked(s, tree, text, &failed);
    lk_lock_release(&s->edit_lock);
    if (st == LK_IO) lk_store_fail(s, &failed);
    if (st != LK_OK && err != NULL) *err = failed;
    if (st == LK_OK && out_tree != NULL) *out_tree = tree;
    return st;
}

lk_status lk_store_keyspace_create(lk_store *s, const char *text, uint32_t *out_tree, lk_error *err)
{
    *out_tree = 0;
    return change(s, 0, text, out_tree, err);
}

lk_status lk_store_keyspace_change(lk_store *s, uint32_t tree, const char *text, lk_error *err)
{
    LK_ASSERT(tree != 0 && text != NULL);
    return change(s, tree, text, NULL, err);
}

lk_status lk_store_keyspace_drop(lk_store *s, uint32_t tree, lk_error *err)
{
    LK_ASSERT(tree != 0);
    return change(s, tree, NULL, NULL, err);
}

/* ---- work that a drop has overtaken ---- */

static bool has_tree(const void *context, uint32_t tree)
{
    return lk_trees_has(((const lk_store *)context)->trees, tree);
}

void lk_store_strip(lk_store *s, lk_edit *edit)
{
    LK_ASSERT(lk_lock_is_held(&s->edit_lock));
    for (size_t i = 0; i < edit->add_count; i++) {
        const lk_edit_add *add = &edit->adds[i];
        char path[LK_PATH_MAX];
        /* A table that moves is there already, and goes with the tree's others. */
        if (has_tree(s, add->meta.tree) || add->table != NULL) continue;
        lk_table_path(s->dir, add->meta.file, path, sizeof path);
        /* What stays behind is removed at the next open: nothing names it. */
        (void)lk_env_unlink(s->env, path, NULL);
    }
    lk_edit_keep_trees(edit, has_tree, s);
}
