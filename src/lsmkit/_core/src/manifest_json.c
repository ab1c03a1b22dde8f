/* manifest_json.c: see manifest_json.h.
 *
 * A decoded string is never longer than its escaped form, so it is decoded where it stands; the
 * closing quote, or what is left of the escapes before it, makes room for a terminating zero.
 */
#include "manifest_json.h"

#include <stdlib.h>

#include "check.h"

static const char HEX_DIGITS[] = "0123456789abcdef";

/* ---- UTF-8 ---- */

/* Bytes of the character that begins at data, 0 when there is none. */
static size_t utf8_length(const uint8_t *data, size_t len)
{
    uint8_t a = data[0];
    if (a < 0x80) return 1;
    if (a < 0xC2 || a > 0xF4) return 0;
    size_t n = a < 0xE0 ? 2 : a < 0xF0 ? 3 : 4;
    if (len < n) return 0;
    for (size_t i = 1; i < n; i++) {
        if ((data[i] & 0xC0) != 0x80) return 0;
    }
    if (a == 0xE0 && data[1] < 0xA0) return 0; /* longer than it need be */
    if (a == 0xED && data[1] > 0x9F) return 0; /* a surrogate */
    if (a == 0xF0 && data[1] < 0x90) return 0;
    if (a == 0xF4 && data[1] > 0x8F) return 0; /* beyond U+10FFFF */
    return n;
}

bool lk_json_is_utf8(const uint8_t *data, size_t len)
{
    for (size_t i = 0; i < len;) {
        size_t n = utf8_length(data + i, len - i);
        if (n == 0) return false;
        i += n;
    }
    return true;
}

static size_t utf8_encode(uint32_t c, uint8_t *out)
{
    if (c < 0x80) {
        out[0] = (uint8_t)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (uint8_t)(0xC0 | (c >> 6));
        out[1] = (uint8_t)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (uint8_t)(0xE0 | (c >> 12));
        out[1] = (uint8_t)(0x80 | ((c >> 6) & 0x3F));
        out[2] = (uint8_t)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (uint8_t)(0xF0 | (c >> 18));
    out[1] = (uint8_t)(0x80 | ((c >> 12) & 0x3F));
    out[2] = (uint8_t)(0x80 | ((c >> 6) & 0x3F));
    out[3] = (uint8_t)(0x80 | (c & 0x3F));
    return 4;
}

/* ---- writing ---- */

void lk_json_writer_init(lk_json_writer *w, size_t bytes_max)
{
    *w = (lk_json_writer){.bytes_max = bytes_max};
}

void lk_json_writer_deinit(lk_json_writer *w)
{
    free(w->data);
    *w = (lk_json_writer){.bytes_max = w->bytes_max};
}

void lk_json_writer_clear(lk_json_writer *w)
{
    w->len = 0;
    w->comma = false;
    w->failed = LK_OK;
}

lk_status lk_json_writer_status(const lk_json_writer *w, lk_error *err)
{
    if (w->failed == LK_NOMEM) return lk_fail_nomem(err, w->capacity * 2);
    if (w->failed == LK_INVALID) {
        return lk_fail(err, LK_INVALID, 0, NULL, 0, w->bytes_max, 0,
                       "a manifest line would be longer than %llu bytes",
                       (unsigned long long)w->bytes_max);
    }
    return LK_OK;
}

/* Room for n more bytes, or NULL. */
static char *writer_room(lk_json_writer *w, size_t n)
{
    if (LK_UNLIKELY(w->failed != LK_OK)) return NULL;
    if (LK_LIKELY(n <= w->capacity - w->len)) return w->data + w->len;
    if (n > w->bytes_max - w->len) {
        w->failed = LK_INVALID;
        return NULL;
    }
    size_t capacity = w->capacity < 256 ? 512 : w->capacity * 2;
    if (capacity < w->len + n) capacity = w->len + n;
    if (capacity > w->bytes_max) capacity = w->bytes_max;
    char *data = realloc(w->data, capacity);
    if (data == NULL) {
        w->failed = LK_NOMEM;
        return NULL;
    }
    w->data = data;
    w->capacity = capacity;
    return data + w->len;
}

void lk_json_write_raw(lk_json_writer *w, const void *data, size_t len)
{
    char *p = writer_room(w, len);
    if (p == NULL || len == 0) return;
    memcpy(p, data, len);
    w->len += len;
}

static void write_comma(lk_json_writer *w)
{
    if (w->comma) lk_json_write_raw(w, ",", 1);
    w->comma = true;
}

void lk_json_open(lk_json_writer *w, char bracket)
{
    LK_ASSERT(bracket == '{' || bracket == '[');
    write_comma(w);
    lk_json_write_raw(w, &bracket, 1);
    w->comma = false;
}

void lk_json_close(lk_json_writer *w, char bracket)
{
    LK_ASSERT(bracket == '}' || bracket == ']');
    lk_json_write_raw(w, &bracket, 1);
    w->comma = true;
}

void lk_json_name(lk_json_writer *w, const char *name)
{
    write_comma(w);
    lk_json_write_raw(w, "\"", 1);
    lk_json_write_raw(w, name, strlen(name));
    lk_json_write_raw(w, "\":", 2);
    w->comma = false;
}

void lk_json_write_u64(lk_json_writer *w, uint64_t value)
{
    char digits[20];
    size_t n = 0;
    do {
        digits[sizeof digits - ++n] = (char)('0' + value % 10);
        value /= 10;
    } while (value != 0);
    write_comma(w);
    lk_json_write_raw(w, digits + sizeof digits - n, n);
}

void lk_json_write_bool(lk_json_writer *w, bool value)
{
    write_comma(w);
    lk_json_write_raw(w, value ? "true" : "false", value ? 4 : 5);
}

/* The escape of a byte that may not stand in a string as it is, and its length; 0 where it may. */
static size_t escape(uint8_t c, char out[6])
{
    char letter = 0;
    switch (c) {
    case '"':
    case '\\':
        letter = (char)c;
        break;
    case '\b':
        letter = 'b';
        break;
    case '\f':
        letter = 'f';
        break;
    case '\n':
        letter = 'n';
        break;
    case '\r':
        letter = 'r';
        break;
    case '\t':
        letter = 't';
        break;
    default:
        if (c >= 0x20) return 0;
        memcpy(out, "\\u00", 4);
        out[4] = HEX_DIGITS[c >> 4];
        out[5] = HEX_DIGITS[c & 15];
        return 6;
    }
    out[0] = '\\';
    out[1] = letter;
    return 2;
}

void lk_json_write_string(lk_json_writer *w, const char *text)
{
    size_t len = strlen(text);
    LK_ASSERT(lk_json_is_utf8((const uint8_t *)text, len));
    write_comma(w);
    lk_json_write_raw(w, "\"", 1);
    size_t done = 0;
    for (size_t i = 0; i < len; i++) {
        char out[6];
        size_t n = escape((uint8_t)text[i], out);
        if (n == 0) continue;
        lk_json_write_raw(w, text + done, i - done);
        lk_json_write_raw(w, out, n);
        done = i + 1;
    }
    lk_json_write_raw(w, text + done, len - done);
    lk_json_write_raw(w, "\"", 1);
}

void lk_json_name_string(lk_json_writer *w, const char *text)
{
    lk_json_write_string(w, text);
    lk_json_write_raw(w, ":", 1);
    w->comma = false;
}

void lk_json_write_hex(lk_json_writer *w, const uint8_t *data, size_t len)
{
    write_comma(w);
    LK_ASSERT(len <= SIZE_MAX / 4);
    char *p = writer_room(w, 2 * len + 2);
    if (p == NULL) return;
    *p++ = '"';
    for (size_t i = 0; i < len; i++) {
        *p++ = HEX_DIGITS[data[i] >> 4];
        *p++ = HEX_DIGITS[data[i] & 15];
    }
    *p = '"';
    w->len += 2 * len + 2;
}

void lk_json_field(lk_json_writer *w, const char *name, uint64_t value)
{
    lk_json_name(w, name);
    lk_json_write_u64(w, value);
}

void lk_json_field_hex(lk_json_writer *w, const char *name, const uint8_t *data, size_t len)
{
    lk_json_name(w, name);
    lk_json_write_hex(w, data, len);
}

/* ---- hexadecimal ---- */

/* The value of a lower-case digit, 16 of anything else. */
static uint32_t hex_value(uint8_t c)
{
    if (c >= '0' && c <= '9') return (uint32_t)(c - '0');
    if (c >= 'a' && c <= 'f') return (uint32_t)(c - 'a' + 10);
    return 16;
}

void lk_hex16_write(uint64_t value, char out[16])
{
    for (int i = 15; i >= 0; i--) {
        out[i] = HEX_DIGITS[value & 15];
        value >>= 4;
    }
}

bool lk_hex16_read(const uint8_t in[16], uint64_t *out)
{
    uint64_t value = 0;
    *out = 0;
    for (int i = 0; i < 16; i++) {
        uint32_t digit = hex_value(in[i]);
        if (digit > 15) return false;
        value = value << 4 | digit;
    }
    *out = value;
    return true;
}

/* ---- reading ---- */

void lk_json_reader_init(lk_json_reader *r, void *text, size_t len)
{
    *r = (lk_json_reader){.text = text, .len = len};
}

bool lk_json_fault(lk_json_reader *r, const char *what)
{
    if (r->fault == NULL) {
        r->fault = what;
        r->fault_pos = r->pos;
    }
    return false;
}

/* The byte at the position; 0, which no token begins with, at the end and after a fault. */
static uint8_t peek(const lk_json_reader *r)
{
    return r->fault == NULL && r->pos < r->len ? r->text[r->pos] : 0;
}

bool lk_json_end(lk_json_reader *r)
{
    if (r->fault != NULL) return false;
    if (r->pos != r->len || r->depth != 0) return lk_json_fault(r, "more than one value");
    return true;
}

bool lk_json_enter(lk_json_reader *r, char bracket)
{
    if (peek(r) != (uint8_t)bracket) {
        return lk_json_fault(r, bracket == '{' ? "an object is missing" : "an array is missing");
    }
    if (r->depth == LK_JSON_DEPTH_MAX) return lk_json_fault(r, "nested too deep");
    r->pos++;
    r->depth++;
    r->fresh |= 1u << r->depth;
    return true;
}

/* Whether another item of the innermost object or array follows; its comma is read. */
static bool next_item(lk_json_reader *r, uint8_t end)
{
    uint8_t c = peek(r);
    uint32_t bit = 1u << r->depth;
    if (r->fault != NULL) return false;
    LK_ASSERT(r->depth > 0);
    if (c == end) {
        r->pos++;
        r->depth--;
        r->fresh &= ~bit;
        return false;
    }
    if ((r->fresh & bit) != 0) {
        r->fresh &= ~bit;
        return true;
    }
    if (c != ',') return lk_json_fault(r, "a comma or an end is missing");
    r->pos++;
    return true;
}

bool lk_json_member(lk_json_reader *r, lk_bytes *out_name)
{
    *out_name = (lk_bytes){NULL, 0};
    if (!next_item(r, '}')) return false;
    if (!lk_json_read_string(r, out_name)) return false;
    if (peek(r) != ':') return lk_json_fault(r, "a colon is missing");
    r->pos++;
    return true;
}

bool lk_json_element(lk_json_reader *r) { return next_item(r, ']'); }

bool lk_json_read_u64(lk_json_reader *r, uint64_t *out)
{
    *out = 0;
    uint8_t c = peek(r);
    if (c < '0' || c > '9') return lk_json_fault(r, "a number is missing");
    bool zero = c == '0';
    uint64_t value = 0;
    for (size_t n = 0; c >= '0' && c <= '9'; c = peek(r), n++) {
        uint64_t digit = (uint64_t)(c - '0');
        if (zero && n == 1) return lk_json_fault(r, "a number begins with 0");
        if (value > (UINT64_MAX - digit) / 10) return lk_json_fault(r, "a number is too large");
        value = value * 10 + digit;
        r->pos++;
    }
    *out = value;
    return true;
}

static bool read_word(lk_json_reader *r, const char *word)
{
    size_t n = strlen(word);
    if (r->len - r->pos < n || memcmp(r->text + r->pos, word, n) != 0) {
        return lk_json_fault(r, "an unknown word");
    }
    r->pos += n;
    return true;
}

bool lk_json_read_bool(lk_json_reader *r, bool *out)
{
    *out = false;
    uint8_t c = peek(r);
    if (c != 't' && c != 'f') return lk_json_fault(r, "true or false is missing");
    if (!read_word(r, c == 't' ? "true" : "false")) return false;
    *out = c == 't';
    return true;
}

/* Four hexadecimal digits of either case. */
static bool read_unit(lk_json_reader *r, uint32_t *out)
{
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) {
        uint8_t c = peek(r);
        uint32_t digit = hex_value(c >= 'A' && c <= 'F' ? (uint8_t)(c | 0x20) : c);
        if (digit > 15) return lk_json_fault(r, "a bad \\u escape");
        value = value << 4 | digit;
        r->pos++;
    }
    *out = value;
    return true;
}

/* Behind the backslash: writes the character to `out`, which is not beyond the position. */
static bool read_escape(lk_json_reader *r, uint8_t *out, size_t *out_n)
{
    static const char FROM[] = "\"\\/bfnrt";
    static const char TO[] = "\"\\/\b\f\n\r\t";
    uint8_t c = peek(r);
    const char *found = c == 0 ? NULL : strchr(FROM, c);
    if (found != NULL) {
        r->pos++;
        *out = (uint8_t)TO[found - FROM];
        *out_n = 1;
        return true;
    }
    if (c != 'u') return lk_json_fault(r, "an unknown escape");
    r->pos++;
    uint32_t high, low;
    if (!read_unit(r, &high)) return false;
    if (high >= 0xDC00 && high <= 0xDFFF) return lk_json_fault(r, "half a surrogate pair");
    if (high >= 0xD800 && high <= 0xDBFF) {
        if (peek(r) != '\\' || !(r->pos++, peek(r) == 'u') || !(r->pos++, read_unit(r, &low)) ||
            low < 0xDC00 || low > 0xDFFF) {
            return lk_json_fault(r, "half a surrogate pair");
        }
        high = 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
    }
    *out_n = utf8_encode(high, out);
    return true;
}

bool lk_json_read_string(lk_json_reader *r, lk_bytes *out)
{
    *out = (lk_bytes){NULL, 0};
    if (peek(r) != '"') return lk_json_fault(r, "a string is missing");
    size_t start = ++r->pos, to = start;
    for (;;) {
        uint8_t c = peek(r);
        if (c == '"') break;
        size_t n;
        if (c == '\\') {
            r->pos++;
            if (!read_escape(r, r->text + to, &n)) return false;
        } else {
            if (r->pos >= r->len) return lk_json_fault(r, "a string does not end");
            if (c < 0x20) return lk_json_fault(r, "a control character in a string");
            n = utf8_length(r->text + r->pos, r->len - r->pos);
            if (n == 0) return lk_json_fault(r, "a string is not UTF-8");
            if (to != r->pos) memmove(r->text + to, r->text + r->pos, n);
            r->pos += n;
        }
        to += n;
    }
    LK_ASSERT(to <= r->pos);
    r->text[to] = 0;
    r->pos++;
    *out = (lk_bytes){r->text + start, to - start};
    return true;
}

bool lk_json_read_hex(lk_json_reader *r, lk_bytes *out)
{
    lk_bytes text;
    *out = (lk_bytes){NULL, 0};
    if (!lk_json_read_string(r, &text)) return false;
    if (text.len % 2 != 0) return lk_json_fault(r, "half a hexadecimal byte");
    uint8_t *to = r->text + (text.data - r->text);
    for (size_t i = 0; i < text.len / 2; i++) {
        uint32_t high = hex_value(text.data[2 * i]), low = hex_value(text.data[2 * i + 1]);
        if (high > 15 || low > 15) return lk_json_fault(r, "a digit is not hexadecimal");
        to[i] = (uint8_t)(high << 4 | low);
    }
    *out = (lk_bytes){to, text.len / 2};
    return true;
}

bool lk_json_skip(lk_json_reader *r)
{
    lk_bytes text;
    uint64_t number;
    bool flag;
    uint8_t c = peek(r);
    switch (c) {
    case '{':
        if (!lk_json_enter(r, '{')) return false;
        while (lk_json_member(r, &text)) {
            if (!lk_json_skip(r)) return false;
        }
        return r->fault == NULL;
    case '[':
        if (!lk_json_enter(r, '[')) return false;
        while (lk_json_element(r)) {
            if (!lk_json_skip(r)) return false;
        }
        return r->fault == NULL;
    case '"':
        return lk_json_read_string(r, &text);
    case 't':
    case 'f':
        return lk_json_read_bool(r, &flag);
    default:
        return lk_json_read_u64(r, &number);
    }
}

bool lk_json_first_time(lk_json_reader *r, uint32_t *seen, uint32_t bit)
{
    if ((*seen & bit) != 0) return lk_json_fault(r, "a name stands twice");
    *seen |= bit;
    return true;
}

bool lk_json_read_u32(lk_json_reader *r, uint32_t max, uint32_t *out)
{
    uint64_t value;
    *out = 0;
    if (!lk_json_read_u64(r, &value)) return false;
    if (value > max) return lk_json_fault(r, "a number is out of its range");
    *out = (uint32_t)value;
    return true;
}
