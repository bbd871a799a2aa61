#include "exec/launch/launch_nodelist.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* What is being expanded: names that all end with the same rest still to come. */
struct expansion {
    struct hlm_arena *arena;
    const char *text; /* the whole, for messages */
    struct hlm_nodelist list;
};

static enum hlm_status fail(const struct expansion *expansion, struct hlm_err *err)
{
    return hlm_fail(err, HLM_ENV, "expected a list of nodes like host[01-03,7],other, found \"%s\"",
                    expansion->text);
}

static bool is_name(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (!isalnum((unsigned char)text[i]) && strchr(".-_", text[i]) == NULL) {
            return false;
        }
    }
    return true;
}

/* One number; its digits are *out_width. */
static bool read_number(const char **text, long *out, int *out_width)
{
    char *end = NULL;
    if (!isdigit((unsigned char)**text)) {
        return false;
    }
    *out = strtol(*text, &end, 10);
    *out_width = (int)(end - *text);
    *text = end;
    return *out_width < 10;
}

/* A growing list of names. */
static bool append(struct expansion *expansion, const char *name)
{
    struct hlm_nodelist *list = &expansion->list;
    if (list->num_names == HLM_NODELIST_MAX) {
        return false;
    }
    const bool full = (list->num_names & (list->num_names - 1)) == 0; /* capacities double */
    if (full) {
        const char **longer = HLM_ARENA_ARRAY(expansion->arena, const char *,
                                              list->num_names == 0 ? 1 : 2 * list->num_names);
        for (int i = 0; i < list->num_names; i++) {
            longer[i] = list->names[i];
        }
        list->names = longer;
    }
    list->names[list->num_names++] = name;
    return true;
}

static bool expand(struct expansion *expansion, const char *prefix, const char *rest);

/* "01-03,7]..." behind the prefix. */
static bool expand_numbers(struct expansion *expansion, const char *prefix, const char *numbers)
{
    const char *behind = strchr(numbers, ']');
    bool more = true;
    while (behind != NULL && more) {
        long first = 0, last = 0;
        int width = 0, ignored = 0;
        if (!read_number(&numbers, &first, &width)) {
            return false;
        }
        last = first;
        if (*numbers == '-' && (numbers++, !read_number(&numbers, &last, &ignored))) {
            return false;
        }
        if (last < first || (*numbers != ',' && *numbers != ']')) {
            return false;
        }
        for (long number = first; number <= last; number++) {
            const char *name = hlm_arena_printf(expansion->arena, "%s%0*ld", prefix, width, number);
            if (!expand(expansion, name, behind + 1)) {
                return false;
            }
        }
        more = *numbers++ == ',';
    }
    return behind != NULL;
}

/* Adds the names that begin with `prefix` and go on with the text up to its next comma outside of
 * brackets. */
static bool expand(struct expansion *expansion, const char *prefix, const char *rest)
{
    const size_t length = strcspn(rest, ",[");
    if (!is_name(rest, length)) {
        return false;
    }
    const char *name = hlm_arena_printf(expansion->arena, "%s%.*s", prefix, (int)length, rest);
    if (rest[length] == '[') {
        return expand_numbers(expansion, name, rest + length + 1);
    }
    return name[0] != '\0' && append(expansion, name);
}

/* Behind the next comma outside of brackets; NULL at the end. */
static const char *next_entry(const char *text)
{
    bool inside = false;
    for (; *text != '\0'; text++) {
        inside = *text == '[' || (inside && *text != ']');
        if (*text == ',' && !inside) {
            return text + 1;
        }
    }
    return NULL;
}

enum hlm_status hlm_nodelist_parse(struct hlm_arena *arena, const char *text,
                                   struct hlm_nodelist *out, struct hlm_err *err)
{
    struct expansion expansion = {.arena = arena, .text = text};
    for (const char *entry = text; entry != NULL; entry = next_entry(entry)) {
        if (!expand(&expansion, "", entry)) {
            return fail(&expansion, err);
        }
    }
    *out = expansion.list;
    return HLM_OK;
}
