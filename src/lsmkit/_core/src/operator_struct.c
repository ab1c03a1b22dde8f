/* operator_struct.c: a record whose fields are merged each by a rule of its own.
 *
 * Text      struct:<bytes>:<field>;<field>...   in order of their offsets, which do not overlap
 *           field = <name>,<rule>,<type>,<offset>,<count>
 *           rule  = add min max or first last
 *           type  = as NumPy writes it, without its byte order, which is little: i1 i2 i4 i8
 *                   u1 u2 u4 u8 f4 f8 b1 M8[unit] m8[unit] S<n> U<n> V<n>
 *           The names matter to people alone.
 * Always    what lies between fields comes from the oldest.
 */
#include <stdlib.h>

#include "check.h"
#include "operator_kinds.h"

#define FIELDS_MAX 4096u
#define STRUCT_BYTES_MAX (1u << 20)

typedef enum rule { RULE_ADD, RULE_MIN, RULE_MAX, RULE_OR, RULE_FIRST, RULE_LAST } rule;
typedef enum shape { SHAPE_SIGNED, SHAPE_UNSIGNED, SHAPE_FLOAT, SHAPE_OPAQUE } shape;

typedef struct field {
    uint32_t offset, bytes, count; /* `count` elements of `bytes` each */
    rule rule;
    shape shape;
} field;

typedef struct layout {
    uint32_t field_count;
    field fields[];
} layout;

/* ---- folding ---- */

static uint64_t load_integer(const field *f, const uint8_t *p)
{
    uint64_t v = 0;
    memcpy(&v, p, f->bytes);
    uint32_t unused = 64 - 8 * f->bytes;
    if (f->shape == SHAPE_SIGNED && unused != 0) v = (uint64_t)((int64_t)(v << unused) >> unused);
    return v;
}

static void step_integer(const field *f, uint8_t *to, const uint8_t *from)
{
    uint64_t a = load_integer(f, to), b = load_integer(f, from);
    bool b_is_less = f->shape == SHAPE_SIGNED ? (int64_t)b < (int64_t)a : b < a;
    switch (f->rule) {
    case RULE_ADD:
        a += b; /* wraps at the field's width */
        break;
    case RULE_MIN:
        a = b_is_less ? b : a;
        break;
    case RULE_MAX:
        a = b_is_less ? a : b;
        break;
    case RULE_OR:
        a |= b;
        break;
    case RULE_FIRST:
    case RULE_LAST:
        LK_ASSERT(false);
        break;
    }
    memcpy(to, &a, f->bytes);
}

/* A NaN gives way to a number in min and max, so that the order of operands does not matter. */
static double fold_float(rule r, double a, double b)
{
    if (r == RULE_ADD) return a + b;
    if (a != a) return b;
    if (r == RULE_MIN) return b < a ? b : a;
    return b > a ? b : a;
}

static void step_float(const field *f, uint8_t *to, const uint8_t *from)
{
    double a, b;
    float a4, b4;
    if (f->bytes == 8) {
        memcpy(&a, to, 8);
        memcpy(&b, from, 8);
        a = fold_float(f->rule, a, b);
        memcpy(to, &a, 8);
    } else {
        memcpy(&a4, to, 4);
        memcpy(&b4, from, 4);
        a4 = (float)fold_float(f->rule, (double)a4, (double)b4);
        memcpy(to, &a4, 4);
    }
}

static void step(const layout *l, uint8_t *to, const uint8_t *from)
{
    for (uint32_t i = 0; i < l->field_count; i++) {
        const field *f = &l->fields[i];
        if (f->rule == RULE_FIRST) continue;
        if (f->rule == RULE_LAST) {
            memcpy(to + f->offset, from + f->offset, (size_t)f->bytes * f->count);
            continue;
        }
        for (uint32_t k = 0; k < f->count; k++) {
            size_t at = f->offset + (size_t)k * f->bytes;
            if (f->shape == SHAPE_FLOAT) {
                step_float(f, to + at, from + at);
            } else {
                step_integer(f, to + at, from + at);
            }
        }
    }
}

static lk_status struct_full(const lk_operator *op, const lk_bytes *old, const lk_bytes *operands,
                             size_t count, lk_buffer *out, lk_error *err)
{
    const lk_bytes first = old != NULL ? *old : operands[0];
    if (first.len != op->width) return lk_operator_fail_stored(op, err, first.len, op->width);
    size_t start = out->len;
    lk_status st = lk_buffer_append(out, first.data, first.len, err);
    if (st != LK_OK) return st;
    out->len = start; /* until all is well */
    for (size_t i = old != NULL ? 0 : 1; i < count; i++) {
        if (operands[i].len != op->width)
            return lk_operator_fail_stored(op, err, operands[i].len, op->width);
        step(op->context, out->data + start, operands[i].data);
    }
    out->len = start + op->width;
    return LK_OK;
}

/* ---- reading the text ---- */

static bool take(const char **p, char c)
{
    if (**p != c) return false;
    (*p)++;
    return true;
}

static bool read_rule(const char **p, rule *out)
{
    static const char *const NAMES[] = {"add,", "min,", "max,", "or,", "first,", "last,"};
    for (int i = 0; i < 6; i++) {
        size_t n = strlen(NAMES[i]);
        if (strncmp(*p, NAMES[i], n) != 0) continue;
        *p += n;
        *out = (rule)i;
        return true;
    }
    return false;
}

static bool read_type(const char **p, field *f)
{
    char letter = **p;
    if (letter == '\0') return false;
    (*p)++;
    if (!lk_operator_read_number(p, STRUCT_BYTES_MAX, &f->bytes) || f->bytes == 0) return false;
    bool number = f->bytes == 1 || f->bytes == 2 || f->bytes == 4 || f->bytes == 8;
    switch (letter) {
    case 'i':
        f->shape = SHAPE_SIGNED;
        return number;
    case 'u':
        f->shape = SHAPE_UNSIGNED;
        return number;
    case 'b':
        f->shape = SHAPE_UNSIGNED;
        return f->bytes == 1 && f->rule != RULE_ADD;
    case 'f':
        f->shape = SHAPE_FLOAT;
        return (f->bytes == 4 || f->bytes == 8) && f->rule != RULE_OR;
    case 'M':
    case 'm':
        f->shape = SHAPE_SIGNED;
        if (f->bytes != 8 || f->rule == RULE_OR) return false;
        if (take(p, '[')) {
            *p += strcspn(*p, "],;");
            return take(p, ']');
        }
        return true;
    case 'U':
        f->bytes *= 4;
        break;
    case 'S':
    case 'V':
        break;
    default:
        return false;
    }
    f->shape = SHAPE_OPAQUE;
    return f->rule == RULE_FIRST || f->rule == RULE_LAST;
}

static bool read_field(const char **p, uint32_t from, uint32_t width, field *f)
{
    size_t name = strcspn(*p, ",;");
    if (name == 0) return false;
    *p += name;
    if (!take(p, ',') || !read_rule(p, &f->rule) || !read_type(p, f)) return false;
    if (!take(p, ',') || !lk_operator_read_number(p, width, &f->offset)) return false;
    if (!take(p, ',') || !lk_operator_read_number(p, width, &f->count)) return false;
    return f->count > 0 && f->offset >= from && (uint64_t)f->bytes * f->count <= width - f->offset;
}

static bool read_layout(const char *p, uint32_t width, layout *l)
{
    uint32_t from = 0;
    do {
        field *f = &l->fields[l->field_count];
        if (!read_field(&p, from, width, f)) return false;
        from = f->offset + f->bytes * f->count;
        l->field_count++;
    } while (take(&p, ';'));
    return *p == '\0';
}

lk_status lk_operator_set_struct(lk_operator *op, const char *text, lk_error *err)
{
    const char *p = text;
    uint32_t width;
    size_t fields = 1;
    for (const char *c = text; *c != '\0'; c++) fields += *c == ';';
    if (lk_operator_read_number(&p, STRUCT_BYTES_MAX, &width) && width > 0 && take(&p, ':') &&
        fields <= FIELDS_MAX) {
        size_t bytes = sizeof(layout) + fields * sizeof(field);
        layout *l = calloc(1, bytes);
        if (l == NULL) return lk_fail_nomem(err, bytes);
        op->context = l;
        op->release = free;
        op->width = width;
        op->full = struct_full;
        if (read_layout(p, width, l)) return LK_OK;
    }
    return lk_fail(err, LK_INVALID, 0, NULL, 0, 0, 0, "no layout of a struct operator: %.200s",
                   text);
}
