/* test_manifest_json.c: what is written is read back, and nothing but the subset is read.
 *
 * Method: texts by hand for each rule, then every truncation and many changed bytes of a text that
 * holds everything, for the sanitizers to watch.
 */
#include "harness.h"

#include "manifest_json.h"

/* Reads one string from a copy of `text`; false when that is refused. */
static bool reads_string(const char *text, char *out, size_t *out_len)
{
    char copy[256];
    lk_json_reader r;
    lk_bytes value;
    size_t len = strlen(text);
    CHECK(len < sizeof copy);
    memcpy(copy, text, len);
    lk_json_reader_init(&r, copy, len);
    (void)lk_json_read_string(&r, &value);
    if (!lk_json_end(&r)) return false;
    memcpy(out, value.data, value.len);
    out[value.len] = 0;
    *out_len = value.len;
    return true;
}

/* Whether `text` as a whole is one value of the subset. */
static bool is_value(const char *text)
{
    size_t len = strlen(text);
    char *copy = malloc(len + 1); /* exactly as long, so that reading behind it is seen */
    CHECK(copy != NULL);
    memcpy(copy, text, len);
    char *exact = realloc(copy, len > 0 ? len : 1);
    CHECK(exact != NULL);
    lk_json_reader r;
    lk_json_reader_init(&r, exact, len);
    (void)lk_json_skip(&r);
    bool ok = lk_json_end(&r);
    CHECK_EQ(ok, r.fault == NULL);
    free(exact);
    return ok;
}

static void write_sample(lk_json_writer *w)
{
    lk_json_open(w, '{');
    lk_json_field(w, "zero", 0);
    lk_json_field(w, "most", UINT64_MAX);
    lk_json_name(w, "list");
    lk_json_open(w, '[');
    lk_json_write_bool(w, true);
    lk_json_write_bool(w, false);
    lk_json_open(w, '[');
    lk_json_close(w, ']');
    lk_json_open(w, '{');
    lk_json_close(w, '}');
    lk_json_close(w, ']');
    lk_json_field_hex(w, "key", (const uint8_t *)"\x00\x9f\xff", 3);
    lk_json_name_string(w, "a \"name\"");
    lk_json_write_string(w, "tab\there \x01 \xC3\xA4 \xF0\x9F\x90\x98");
    lk_json_close(w, '}');
}

static const char SAMPLE[] =
    "{\"zero\":0,\"most\":18446744073709551615,\"list\":[true,false,[],{}],"
    "\"key\":\"009fff\",\"a \\\"name\\\"\":\"tab\\there \\u0001 \xC3\xA4 "
    "\xF0\x9F\x90\x98\"}";

LK_TEST(writer_puts_commas_and_escapes_where_they_belong)
{
    lk_json_writer w;
    lk_error err;
    lk_json_writer_init(&w, 4096);
    write_sample(&w);
    CHECK_OK(lk_json_writer_status(&w, &err), &err);
    CHECK_EQ(w.len, strlen(SAMPLE));
    CHECK_MEM_EQ(w.data, SAMPLE, w.len);
    CHECK(is_value(SAMPLE));
    lk_json_writer_deinit(&w);
}

LK_TEST(reader_gives_back_what_was_written)
{
    char text[sizeof SAMPLE];
    lk_json_reader r;
    lk_bytes name, value;
    uint64_t number;
    bool flag;
    memcpy(text, SAMPLE, sizeof text);
    lk_json_reader_init(&r, text, strlen(SAMPLE));
    CHECK(lk_json_enter(&r, '{'));
    CHECK(lk_json_member(&r, &name) && lk_json_is(name, "zero"));
    CHECK(lk_json_read_u64(&r, &number) && number == 0);
    CHECK(lk_json_member(&r, &name) && lk_json_is(name, "most"));
    CHECK(lk_json_read_u64(&r, &number) && number == UINT64_MAX);
    CHECK(lk_json_member(&r, &name) && lk_json_is(name, "list"));
    CHECK(lk_json_enter(&r, '['));
    CHECK(lk_json_element(&r) && lk_json_read_bool(&r, &flag) && flag);
    CHECK(lk_json_element(&r) && lk_json_read_bool(&r, &flag) && !flag);
    CHECK(lk_json_element(&r) && lk_json_skip(&r));
    CHECK(lk_json_element(&r) && lk_json_skip(&r));
    CHECK(!lk_json_element(&r) && r.fault == NULL);
    CHECK(lk_json_member(&r, &name) && lk_json_is(name, "key"));
    CHECK(lk_json_read_hex(&r, &value));
    CHECK_EQ(value.len, 3);
    CHECK_MEM_EQ(value.data, "\x00\x9f\xff", 3);
    CHECK(lk_json_member(&r, &name) && lk_json_is(name, "a \"name\""));
    CHECK(lk_json_read_string(&r, &value));
    CHECK_STR_EQ((const char *)value.data, "tab\there \x01 \xC3\xA4 \xF0\x9F\x90\x98");
    CHECK(!lk_json_member(&r, &name));
    CHECK(lk_json_end(&r));
}

LK_TEST(every_character_survives_a_round_trip)
{
    lk_json_writer w;
    lk_json_writer_init(&w, 4096);
    for (int c = 1; c < 128; c++) {
        char text[3] = {'<', (char)c, 0}, back[256];
        size_t len;
        lk_json_writer_clear(&w);
        lk_json_write_string(&w, text);
        lk_json_write_raw(&w, "", 1);
        for (size_t i = 0; i + 1 < w.len; i++) CHECK((unsigned char)w.data[i] >= 0x20);
        CHECK(reads_string(w.data, back, &len));
        CHECK_STR_EQ(back, text);
    }
    lk_json_writer_deinit(&w);
}

LK_TEST(all_escapes_are_read)
{
    static const struct {
        const char *text, *value;
        size_t len;
    } CASES[] = {
        {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t", 8},
        {"\"\\u0041\\u00e4\\u20AC\"", "A\xC3\xA4\xE2\x82\xAC", 6},
        {"\"\\ud83d\\uDC18\"", "\xF0\x9F\x90\x98", 4},
        {"\"\\uDBFF\\uDFFF\"", "\xF4\x8F\xBF\xBF", 4},
        {"\"\\u0000\"", "\0", 1},
        {"\"\"", "", 0},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        char back[256];
        size_t len;
        CHECK(reads_string(CASES[i].text, back, &len));
        CHECK_EQ(len, CASES[i].len);
        CHECK_MEM_EQ(back, CASES[i].value, len);
    }
}

LK_TEST(everything_outside_the_subset_is_refused)
{
    static const char *const BAD[] = {
        "",
        " ",
        " 1",
        "1 ",
        "{ }",
        "[1, 2]",
        "null",
        "-1",
        "1.5",
        "1e3",
        "01",
        "00",
        "+1",
        "18446744073709551616",
        "99999999999999999999",
        "tru",
        "True",
        "falsey",
        "[1",
        "[1,",
        "[,1]",
        "[1,]",
        "[1}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{\"a\" :1}",
        "{1:1}",
        "{\"a\":1",
        "\"",
        "\"a",
        "\"\\\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\\ud83d\"",
        "\"\\ud83dx\"",
        "\"\\ud83d\\n\"",
        "\"\\ud83d\\u0041\"",
        "\"\\udc18\"",
        "\"\n\"",
        "\"\t\"",
        "\"\xff\"",
        "\"\xC0\x80\"",
        "\"\xED\xA0\x80\"",
        "\"\xF4\x90\x80\x80\"",
        "\"\xE0\x80\x80\"",
        "\"\xC3\"",
        "\"\xF0\x8F\xBF\xBF\"",
        "'a'",
        "1 1",
        "{}{}",
        "]",
        "}",
        ":",
        ",",
    };
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        if (is_value(BAD[i])) lk_test_fail(__FILE__, __LINE__, "taken: %s", BAD[i]);
    }
    static const char *const GOOD[] = {"0",       "18446744073709551615",
                                       "{}",      "[]",
                                       "[[],{}]", "{\"a\":{\"b\":[1,2,{\"c\":\"d\"}]},\"e\":true}"};
    for (size_t i = 0; i < sizeof GOOD / sizeof *GOOD; i++) CHECK(is_value(GOOD[i]));
}

LK_TEST(nesting_is_bounded)
{
    char text[2 * 64 + 1];
    for (size_t depth = 1; depth <= 64; depth++) {
        memset(text, '[', depth);
        memset(text + depth, ']', depth);
        text[2 * depth] = 0;
        CHECK_EQ(is_value(text), depth <= LK_JSON_DEPTH_MAX);
    }
}

LK_TEST(hexadecimal_is_lower_case_and_even)
{
    static const char *const BAD[] = {"\"0\"", "\"0g\"", "\"AB\"", "\"0x\"", "\" 0\"", "\"ab c\""};
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        char copy[16];
        lk_bytes out;
        lk_json_reader r;
        memcpy(copy, BAD[i], strlen(BAD[i]));
        lk_json_reader_init(&r, copy, strlen(BAD[i]));
        CHECK(!lk_json_read_hex(&r, &out));
        CHECK(r.fault != NULL && out.len == 0);
    }
    char digits[17] = {0};
    uint64_t value;
    lk_hex16_write(UINT64_C(0x0123456789abcdef), digits);
    CHECK_STR_EQ(digits, "0123456789abcdef");
    CHECK(lk_hex16_read((const uint8_t *)digits, &value));
    CHECK_EQ(value, UINT64_C(0x0123456789abcdef));
    CHECK(!lk_hex16_read((const uint8_t *)"0123456789abcdeF", &value));
    CHECK(!lk_hex16_read((const uint8_t *)"0123456789abcde ", &value));
}

LK_TEST(first_fault_stays_and_all_reads_after_it_give_nothing)
{
    char text[] = "[1,x,2]";
    lk_json_reader r;
    uint64_t number;
    lk_bytes name;
    lk_json_reader_init(&r, text, strlen(text));
    CHECK(lk_json_enter(&r, '['));
    CHECK(lk_json_element(&r) && lk_json_read_u64(&r, &number));
    CHECK(lk_json_element(&r));
    CHECK(!lk_json_read_u64(&r, &number));
    CHECK_EQ(number, 0);
    CHECK_EQ(r.fault_pos, 3);
    const char *fault = r.fault;
    CHECK(!lk_json_element(&r) && !lk_json_member(&r, &name) && !lk_json_enter(&r, '['));
    CHECK(!lk_json_end(&r));
    CHECK(r.fault == fault);
}

LK_TEST(a_line_that_grows_too_long_is_invalid_not_cut)
{
    lk_json_writer w;
    lk_error err;
    lk_json_writer_init(&w, 1000);
    lk_json_open(&w, '[');
    for (int i = 0; i < 400; i++) lk_json_write_u64(&w, (uint64_t)i);
    CHECK_EQ(lk_json_writer_status(&w, &err), LK_INVALID);
    CHECK_EQ(err.expected, 1000);
    lk_json_writer_clear(&w);
    lk_json_write_u64(&w, 7);
    CHECK_OK(lk_json_writer_status(&w, &err), &err);
    CHECK_EQ(w.len, 1);
    lk_json_writer_deinit(&w);
}

LK_TEST(every_truncation_is_refused_and_no_change_of_a_byte_does_harm)
{
    uint64_t rng = lk_test_seed();
    char text[sizeof SAMPLE];
    for (size_t n = 0; n < strlen(SAMPLE); n++) {
        memcpy(text, SAMPLE, n);
        text[n] = 0;
        CHECK(!is_value(text));
    }
    size_t taken = 0;
    for (int i = 0; i < 20000; i++) {
        memcpy(text, SAMPLE, sizeof text);
        for (uint64_t k = 1 + lk_test_below(&rng, 3); k > 0; k--) {
            text[lk_test_below(&rng, strlen(SAMPLE))] = (char)(1 + lk_test_below(&rng, 255));
        }
        taken += is_value(text) ? 1 : 0;
    }
    CHECK(taken > 0 && taken < 20000); /* letters and digits may change, brackets may not */
}
