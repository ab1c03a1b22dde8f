/* settings.h: what holds for all rows of a tree while a store is open: how they merge, how long they
 * live.
 *
 * A view holds the settings beside segments and version, so that reads, flush and compaction find in
 * one place what rows are and what they mean.
 *
 * Owns      references to the operators.
 * Threads   immutable; `refs` is atomic.
 */
#ifndef LK_SETTINGS_H
#define LK_SETTINGS_H

#include <stdatomic.h>

#include "env.h"
#include "operator.h"

#define LK_TTL_NONE UINT64_MAX /* rows that are written without a deadline get none */

typedef struct lk_tree_settings {
    uint32_t tree;
    lk_operator *op; /* NULL: none, and there are no operands in the tree */
    uint64_t ttl_us; /* of rows written without a deadline; LK_TTL_NONE */
} lk_tree_settings;

typedef struct lk_settings {
    _Atomic uint32_t refs;
    lk_env *env; /* whose clock says what has expired */
    uint32_t count;
    bool has_ttl;             /* of some tree */
    lk_tree_settings trees[]; /* by number */
} lk_settings;

/* The settings of these trees, whose numbers ascend; all others have none. Takes references. */
lk_status lk_settings_new(lk_env *env, const lk_tree_settings *trees, uint32_t count,
                          lk_settings **out, lk_error *err);
/* The same with those of one tree set or replaced; taken out where it has none. */
lk_status lk_settings_with(const lk_settings *old, const lk_tree_settings *tree, lk_settings **out,
                           lk_error *err);
void lk_settings_ref(lk_settings *s);
void lk_settings_unref(lk_settings *s); /* NULL is accepted */

/* Of a tree; never NULL. */
const lk_tree_settings *lk_settings_tree(const lk_settings *s, uint32_t tree);

#endif
