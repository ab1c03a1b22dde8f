/* settings.c: see settings.h. */
#include "settings.h"

#include <stdlib.h>

#include "check.h"

static const lk_tree_settings NONE = {.ttl_us = LK_TTL_NONE};

lk_status lk_settings_new(lk_env *env, const lk_tree_settings *trees, uint32_t count,
                          lk_settings **out, lk_error *err)
{
    size_t bytes = sizeof(lk_settings) + count * sizeof *trees;
    lk_settings *s = malloc(bytes);
    *out = s;
    if (s == NULL) return lk_fail_nomem(err, bytes);
    atomic_init(&s->refs, 1);
    s->env = env;
    s->count = count;
    s->has_ttl = false;
    for (uint32_t i = 0; i < count; i++) {
        LK_ASSERT(i == 0 || trees[i - 1].tree < trees[i].tree);
        s->trees[i] = trees[i];
        s->has_ttl |= trees[i].ttl_us != LK_TTL_NONE;
        if (trees[i].op != NULL) lk_operator_ref(trees[i].op);
    }
    return LK_OK;
}

lk_status lk_settings_with(const lk_settings *old, const lk_tree_settings *tree, lk_settings **out,
                           lk_error *err)
{
    uint32_t n = 0, from = 0;
    size_t bytes = (old->count + (size_t)1) * sizeof(lk_tree_settings);
    *out = NULL;
    lk_tree_settings *trees = malloc(bytes);
    if (trees == NULL) return lk_fail_nomem(err, bytes);
    for (; from < old->count && old->trees[from].tree < tree->tree; from++) {
        trees[n++] = old->trees[from];
    }
    if (tree->op != NULL || tree->ttl_us != LK_TTL_NONE) trees[n++] = *tree;
    if (from < old->count && old->trees[from].tree == tree->tree) from++;
    while (from < old->count) trees[n++] = old->trees[from++];
    lk_status st = lk_settings_new(old->env, trees, n, out, err);
    free(trees);
    return st;
}

void lk_settings_ref(lk_settings *s)
{
    atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
}

void lk_settings_unref(lk_settings *s)
{
    if (s == NULL) return;
    uint32_t before = atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel);
    LK_ASSERT(before > 0);
    if (before > 1) return;
    for (uint32_t i = 0; i < s->count; i++) lk_operator_unref(s->trees[i].op);
    free(s);
}

const lk_tree_settings *lk_settings_tree(const lk_settings *s, uint32_t tree)
{
    uint32_t low = 0, high = s->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (s->trees[middle].tree < tree) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < s->count && s->trees[low].tree == tree ? &s->trees[low] : &NONE;
}
