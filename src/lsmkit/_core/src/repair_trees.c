/* repair_trees.c: see repair_trees.h. Trees are few in a repair; each is looked for by its property.
 *
 * Owns      nothing: the properties are the caller's.
 */
#include "repair_trees.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "trees.h"

static bool is_known(const void *context, uint32_t tree)
{
    char name[LK_TREE_PROPERTY_BYTES];
    bool found;
    lk_trees_property(tree, name);
    (void)lk_properties_find(context, name, &found);
    return found || tree < LK_TREE_KEYSPACES;
}

void lk_repair_drop_trees(const lk_properties *p, lk_edit *edit)
{
    lk_edit_keep_trees(edit, is_known, p);
}

/* Whether a keyspace has this text for its first line. */
static bool is_taken(const lk_properties *p, const char *line)
{
    size_t prefix = strlen(LK_TREE_TEXT_PREFIX), len = strlen(line);
    for (size_t i = 0; i < p->count; i++) {
        if (strncmp(p->items[i].name, LK_TREE_TEXT_PREFIX, prefix) != 0) continue;
        if (strncmp(p->items[i].value, line, len) == 0) return true;
    }
    return false;
}

static lk_status set(lk_properties *p, const char *name, const char *value, lk_error *err)
{
    lk_edit edit;
    lk_edit_init(&edit);
    lk_status st = lk_edit_set(&edit, name, value, err);
    if (st == LK_OK) st = lk_properties_apply(p, &edit, err);
    lk_edit_deinit(&edit);
    return st;
}

static lk_status name_tree(lk_properties *p, uint32_t tree,
                           void (*told)(void *context, uint32_t tree, const char *name),
                           void *context, lk_error *err)
{
    lk_status st = LK_OK;
    char property[LK_TREE_PROPERTY_BYTES], text[64];
    (void)snprintf(text, sizeof text, "name=lost-%" PRIu32 "\n", tree);
    for (uint32_t i = 2; is_taken(p, text); i++) {
        (void)snprintf(text, sizeof text, "name=lost-%" PRIu32 "-%" PRIu32 "\n", tree, i);
    }
    lk_trees_property(tree, property);
    LK_TRY(set(p, property, text, err));
    text[strlen(text) - 1] = 0;
    told(context, tree, text + strlen("name="));
done:
    return st;
}

/* The number that the next keyspace gets is behind all that have a property. */
static lk_status next_raise(lk_properties *p, lk_error *err)
{
    bool found;
    size_t prefix = strlen(LK_TREE_TEXT_PREFIX), at = lk_properties_find(p, LK_TREE_NEXT, &found);
    uint64_t had = found ? strtoull(p->items[at].value, NULL, 10) : LK_TREE_KEYSPACES, next = had;
    char number[LK_TREE_PROPERTY_BYTES];
    for (size_t i = 0; i < p->count; i++) {
        if (strncmp(p->items[i].name, LK_TREE_TEXT_PREFIX, prefix) != 0) continue;
        uint64_t tree = strtoull(p->items[i].name + prefix, NULL, 10);
        if (tree < LK_TREE_MAX && tree >= next) next = tree + 1;
    }
    if (next == had) return LK_OK;
    (void)snprintf(number, sizeof number, "%" PRIu64, next);
    return set(p, LK_TREE_NEXT, number, err);
}

lk_status lk_repair_name_trees(lk_properties *p, const lk_edit *edit,
                               void (*told)(void *context, uint32_t tree, const char *name),
                               void *context, lk_error *err)
{
    lk_status st = LK_OK;
    for (size_t i = 0; i < edit->add_count; i++) {
        uint32_t tree = edit->adds[i].meta.tree;
        if (!is_known(p, tree)) LK_TRY(name_tree(p, tree, told, context, err));
    }
    LK_TRY(next_raise(p, err));
    /* Deleted ranges of a tree without rows hide nothing. */
done:
    return st;
}
