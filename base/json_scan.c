#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json_internal.h"

enum { MAX_NUMBER_CHARS = 63 };

struct scan {
    const char *name, *text;
    size_t length, at;
    bool exact_ints;
    struct hlm_err *err;
};

enum hlm_status hlm_json_fail_in_text(struct hlm_err *err, const char *name, const char *text,
                                      size_t offset, const char *problem)
{
    size_t line = 1, column = 1;
    for (size_t i = 0; i < offset; i++) {
        column++;
        if (text[i] == '\n') {
            line++;
            column = 1;
        }
    }
    return hlm_fail(err, HLM_INPUT, "%s: line %zu, column %zu: %s", name, line, column, problem);
}

static enum hlm_status fail_here(const struct scan *scan, const char *problem)
{
    return hlm_json_fail_in_text(scan->err, scan->name, scan->text, scan->at, problem);
}

static unsigned char peek(const struct scan *scan, size_t ahead)
{
    return scan->at + ahead < scan->length ? (unsigned char)scan->text[scan->at + ahead] : 0;
}

/* Length of the well-formed UTF-8 sequence that starts here, 0 if there is none (table 3-7 of the
 * Unicode standard: the second byte's range excludes overlong forms, surrogates and > U+10FFFF). */
static size_t utf8_length(const struct scan *scan)
{
    static const struct {
        unsigned char first_min, first_max, second_min, second_max;
        size_t length;
    } forms[] = {{0xC2, 0xDF, 0x80, 0xBF, 2}, {0xE0, 0xE0, 0xA0, 0xBF, 3},
                 {0xE1, 0xEC, 0x80, 0xBF, 3}, {0xED, 0xED, 0x80, 0x9F, 3},
                 {0xEE, 0xEF, 0x80, 0xBF, 3}, {0xF0, 0xF0, 0x90, 0xBF, 4},
                 {0xF1, 0xF3, 0x80, 0xBF, 4}, {0xF4, 0xF4, 0x80, 0x8F, 4}};
    const unsigned char first = peek(scan, 0), second = peek(scan, 1);
    if (first < 0x80) {
        return 1;
    }
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        if (first < forms[i].first_min || first > forms[i].first_max) {
            continue;
        }
        bool valid = second >= forms[i].second_min && second <= forms[i].second_max;
        for (size_t k = 2; k < forms[i].length; k++) {
            valid = valid && (peek(scan, k) & 0xC0) == 0x80;
        }
        return valid ? forms[i].length : 0;
    }
    return 0;
}

/* cJSON reads \u with bad digits as the character 0. Surrogate pairs are left to it. */
static enum hlm_status scan_escape(struct scan *scan)
{
    const unsigned char letter = peek(scan, 1);
    if (letter == 0 || strchr("\"\\/bfnrtu", letter) == NULL) {
        return fail_here(scan, "not a valid escape in a string");
    }
    scan->at += 2;
    if (letter != 'u') {
        return HLM_OK;
    }
    bool zero = true;
    for (size_t i = 0; i < 4; i++) {
        if (!isxdigit(peek(scan, i))) {
            return fail_here(scan, "expected four hexadecimal digits after \\u");
        }
        zero = zero && peek(scan, i) == '0';
    }
    if (zero) {
        return fail_here(scan, "a string may not contain the character \\u0000");
    }
    scan->at += 4;
    return HLM_OK;
}

/* From an opening quote to behind the closing one. A missing closing quote is left to cJSON. */
static enum hlm_status scan_string(struct scan *scan)
{
    scan->at++;
    while (scan->at < scan->length && peek(scan, 0) != '"') {
        if (peek(scan, 0) < 0x20) {
            return fail_here(scan, "a control character in a string must be escaped");
        }
        if (peek(scan, 0) == '\\') {
            HLM_TRY(scan_escape(scan));
            continue;
        }
        const size_t length = utf8_length(scan);
        if (length == 0) {
            return fail_here(scan, "not valid UTF-8");
        }
        scan->at += length;
    }
    scan->at++;
    return HLM_OK;
}

static size_t count_digits(const struct scan *scan, size_t from)
{
    size_t num = 0;
    while (peek(scan, from + num) >= '0' && peek(scan, from + num) <= '9') {
        num++;
    }
    return num;
}

/* Length of the number by the grammar of RFC 8259, 0 if it is none; whether it is a plain integer.
 */
static size_t number_length(const struct scan *scan, bool *out_plain)
{
    size_t end = peek(scan, 0) == '-' ? 1 : 0;
    const size_t whole = count_digits(scan, end);
    if (whole == 0 || (whole > 1 && peek(scan, end) == '0')) {
        return 0;
    }
    end += whole;
    *out_plain = true;
    if (peek(scan, end) == '.') {
        const size_t decimals = count_digits(scan, end + 1);
        if (decimals == 0) {
            return 0;
        }
        end += 1 + decimals;
        *out_plain = false;
    }
    if (peek(scan, end) == 'e' || peek(scan, end) == 'E') {
        end += peek(scan, end + 1) == '+' || peek(scan, end + 1) == '-' ? 2 : 1;
        const size_t digits = count_digits(scan, end);
        if (digits == 0) {
            return 0;
        }
        end += digits;
        *out_plain = false;
    }
    return end;
}

static enum hlm_status scan_number(struct scan *scan)
{
    bool plain = false;
    const size_t length = number_length(scan, &plain);
    if (length == 0) {
        return fail_here(scan, "not a valid JSON number");
    }
    if (length > MAX_NUMBER_CHARS) {
        return fail_here(scan, "a number may have at most 63 characters");
    }
    if (plain && scan->exact_ints) {
        char digits[MAX_NUMBER_CHARS + 1] = {0}, back[MAX_NUMBER_CHARS + 8];
        memcpy(digits, scan->text + scan->at, length);
        snprintf(back, sizeof back, "%.0f", strtod(digits, NULL));
        if (strcmp(digits, back) != 0) {
            return fail_here(scan, "a whole number too large to be held exactly");
        }
    }
    scan->at += length;
    return HLM_OK;
}

enum hlm_status hlm_json_scan(const char *name, const char *text, size_t length, bool exact_ints,
                              struct hlm_err *err)
{
    static const char byte_order_mark[] = "\xEF\xBB\xBF";
    struct scan scan = {name, text, length, 0, exact_ints, err};
    if (length >= 3 && memcmp(text, byte_order_mark, 3) == 0) {
        scan.at = 3;
    }
    while (scan.at < length) {
        const unsigned char byte = peek(&scan, 0);
        if (byte == '"') {
            HLM_TRY(scan_string(&scan));
        } else if (byte == '-' || (byte >= '0' && byte <= '9')) {
            HLM_TRY(scan_number(&scan));
        } else if ((byte < 0x20 && byte != '\t' && byte != '\n' && byte != '\r') || byte >= 0x7F) {
            return fail_here(&scan, "this character may only stand in a string");
        } else {
            scan.at++;
        }
    }
    return HLM_OK;
}
