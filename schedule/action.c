#include "schedule/action.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

const char *const hlm_action_texts[] = {
#define X(name, text) text,
    HLM_ACTION_MAP(X)
#undef X
        NULL};

/* A stage or microbatch of more digits is no schedule that fits into memory. */
enum { MAX_DIGITS = 9, TEXT_BYTES = 32 };

static bool has_microbatch(enum hlm_action_kind kind)
{
    return kind < HLM_ACTION_REDUCE_GRAD;
}

void hlm_action_format(struct hlm_action action, char out[TEXT_BYTES])
{
    HLM_ASSERT((unsigned)action.kind < HLM_NUM_ACTIONS);
    const char *text = hlm_action_texts[action.kind];
    if (has_microbatch(action.kind)) {
        snprintf(out, TEXT_BYTES, "%d%s%d", action.stage, text, action.microbatch);
    } else {
        snprintf(out, TEXT_BYTES, "%d%s", action.stage, text);
    }
}

/* Reads at most MAX_DIGITS digits; returns what follows them, or NULL where there are none. */
static const char *parse_digits(const char *text, int32_t *out)
{
    int32_t value = 0;
    int digits = 0;
    while (isdigit((unsigned char)text[digits]) && digits < MAX_DIGITS) {
        value = value * 10 + (text[digits] - '0');
        digits++;
    }
    *out = value;
    return digits == 0 ? NULL : text + digits;
}

static enum hlm_action_kind find_kind(const char *text, size_t length)
{
    enum hlm_action_kind kind = 0;
    while (kind < HLM_NUM_ACTIONS && (strlen(hlm_action_texts[kind]) != length ||
                                      memcmp(hlm_action_texts[kind], text, length) != 0)) {
        kind++;
    }
    return kind;
}

static enum hlm_status fail(const char *text, struct hlm_err *err)
{
    return hlm_fail(
        err, HLM_INPUT,
        "expected an action such as 0F3, 2B0, 1SEND_F4 or 0REDUCE_GRAD, found \"%.40s\"", text);
}

enum hlm_status hlm_action_parse(const char *text, struct hlm_action *out, struct hlm_err *err)
{
    struct hlm_action action = {.microbatch = -1};
    const char *kind_text = parse_digits(text, &action.stage);
    if (kind_text == NULL) {
        return fail(text, err);
    }
    const size_t length = strspn(kind_text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_");
    action.kind = find_kind(kind_text, length);
    if (action.kind == HLM_NUM_ACTIONS) {
        return fail(text, err);
    }
    const char *rest = kind_text + length;
    if (has_microbatch(action.kind)) {
        rest = parse_digits(rest, &action.microbatch);
    }
    if (rest == NULL || *rest != '\0') {
        return fail(text, err);
    }
    *out = action;
    return HLM_OK;
}

static const char pair_text[] = "OVERLAP_F_B";
enum { PAIR_BYTES = 64 };

void hlm_action_format_pair(struct hlm_action forward, struct hlm_action backward,
                            char out[PAIR_BYTES])
{
    char first[TEXT_BYTES], second[TEXT_BYTES];
    hlm_action_format(forward, first);
    hlm_action_format(backward, second);
    snprintf(out, PAIR_BYTES, "(%.22s;%.22s)%s", first, second, pair_text);
}

/* The action in text[0, length). */
static bool parse_part(const char *text, size_t length, enum hlm_action_kind kind,
                       struct hlm_action *out)
{
    char part[TEXT_BYTES] = {0};
    struct hlm_err ignored;
    if (length >= sizeof part) {
        return false;
    }
    memcpy(part, text, length);
    return hlm_action_parse(part, out, &ignored) == HLM_OK && out->kind == kind;
}

bool hlm_action_parse_pair(const char *text, struct hlm_action *forward,
                           struct hlm_action *backward)
{
    const char *semicolon = strchr(text, ';');
    const char *end = semicolon == NULL ? NULL : strchr(semicolon, ')');
    return text[0] == '(' && end != NULL && strcmp(end + 1, pair_text) == 0 &&
           parse_part(text + 1, (size_t)(semicolon - text) - 1, HLM_ACTION_F, forward) &&
           parse_part(semicolon + 1, (size_t)(end - semicolon) - 1, HLM_ACTION_B, backward);
}
