/* repair_trees.h: what becomes of keyspaces in a store that is repaired.
 *
 * Their names and options are in the manifest alone; tables and log know numbers.
 *
 * Callers   repair.c.
 * Threads   one.
 */
#ifndef LK_REPAIR_TREES_H
#define LK_REPAIR_TREES_H

#include "properties.h"

/* The manifest is whole: what was found of keyspaces that it does not know, because they were dropped,
 * is taken out of the edit. Their files stay for whoever opens the store. */
void lk_repair_drop_trees(const lk_properties *p, lk_edit *edit);

/* There is no manifest to go by: a keyspace that has tables and no name gets one, "lost-N", which
 * `told` hears. No number that was seen is given again. */
lk_status lk_repair_name_trees(lk_properties *p, const lk_edit *edit,
                               void (*told)(void *context, uint32_t tree, const char *name),
                               void *context, lk_error *err);

#endif
