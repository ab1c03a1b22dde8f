/* properties.h: named texts that the manifest keeps for the program: options, keyspaces, schemas.
 *
 * Owns      copies of its names and values.
 * Callers   manifest.c, manifest_line.c.
 * Threads   none of its own.
 */
#ifndef LK_PROPERTIES_H
#define LK_PROPERTIES_H

#include "version.h"

typedef struct lk_properties {
    lk_edit_property *items; /* in the order of names; every value is one */
    size_t count;
} lk_properties;

void lk_properties_free(lk_properties *p); /* leaves an empty list */
/* Where a property stands in the list, or belongs. */
size_t lk_properties_find(const lk_properties *p, const char *name, bool *out_found);
/* What the edit says of properties. When it fails, part of it may have been done. */
lk_status lk_properties_apply(lk_properties *p, const lk_edit *edit, lk_error *err);
lk_status lk_properties_copy(const lk_properties *from, lk_properties *out, lk_error *err);
bool lk_properties_equal(const lk_properties *a, const lk_properties *b);

#endif
