/* properties.c: see properties.h. A sorted array: there are few, and they change seldom. */
#include "properties.h"

#include <stdlib.h>

size_t lk_properties_find(const lk_properties *p, const char *name, bool *out_found)
{
    size_t low = 0, high = p->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (strcmp(p->items[middle].name, name) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    *out_found = low < p->count && strcmp(p->items[low].name, name) == 0;
    return low;
}

void lk_properties_free(lk_properties *p)
{
    for (size_t i = 0; i < p->count; i++) {
        free(p->items[i].name);
        free(p->items[i].value);
    }
    free(p->items);
    *p = (lk_properties){NULL, 0};
}

static lk_status properties_set(lk_properties *p, const char *name, const char *value,
                                lk_error *err)
{
    bool found;
    size_t i = lk_properties_find(p, name, &found);
    if (value == NULL) {
        if (!found) return LK_OK;
        free(p->items[i].name);
        free(p->items[i].value);
        p->count--;
        memmove(p->items + i, p->items + i + 1, (p->count - i) * sizeof *p->items);
        return LK_OK;
    }
    char *value_copy = strdup(value);
    if (value_copy == NULL) return lk_fail_nomem(err, strlen(value));
    if (found) {
        free(p->items[i].value);
        p->items[i].value = value_copy;
        return LK_OK;
    }
    char *name_copy = strdup(name);
    lk_edit_property *items = realloc(p->items, (p->count + 1) * sizeof *items);
    if (items != NULL) p->items = items;
    if (items == NULL || name_copy == NULL) {
        free(name_copy);
        free(value_copy);
        return lk_fail_nomem(err, (p->count + 1) * sizeof *items);
    }
    memmove(items + i + 1, items + i, (p->count - i) * sizeof *items);
    items[i] = (lk_edit_property){name_copy, value_copy};
    p->count++;
    return LK_OK;
}

lk_status lk_properties_apply(lk_properties *p, const lk_edit *e, lk_error *err)
{
    lk_status st = LK_OK;
    for (size_t i = 0; i < e->property_count; i++) {
        LK_TRY(properties_set(p, e->properties[i].name, e->properties[i].value, err));
    }
done:
    return st;
}

lk_status lk_properties_copy(const lk_properties *from, lk_properties *out, lk_error *err)
{
    lk_status st = LK_OK;
    *out = (lk_properties){NULL, 0};
    for (size_t i = 0; i < from->count; i++) {
        LK_TRY(properties_set(out, from->items[i].name, from->items[i].value, err));
    }
done:
    if (st != LK_OK) lk_properties_free(out);
    return st;
}

bool lk_properties_equal(const lk_properties *a, const lk_properties *b)
{
    if (a->count != b->count) return false;
    for (size_t i = 0; i < a->count; i++) {
        if (strcmp(a->items[i].name, b->items[i].name) != 0) return false;
        if (strcmp(a->items[i].value, b->items[i].value) != 0) return false;
    }
    return true;
}
