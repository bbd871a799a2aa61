#include "profiles/resolve.h"

#include <string.h>

#include "base/opt.h"

static bool starts_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* Names of the folder that start with `prefix`, separated by spaces. */
static const char *list_matches(struct hlm_arena *arena, const char *folder, const char *prefix)
{
    struct hlm_text list;
    hlm_text_init(&list, arena);
    const struct hlm_builtin *row = NULL;
    for (int i = 0; (row = hlm_builtin_at(folder, i)) != NULL; i++) {
        if (starts_with(row->name, prefix)) {
            hlm_text_printf(&list, "%s%s", list.length == 0 ? "" : " ", row->name);
        }
    }
    return list.text;
}

static const char *nearest_name(struct hlm_arena *arena, const char *folder, const char *name)
{
    int count = 0;
    while (hlm_builtin_at(folder, count) != NULL) {
        count++;
    }
    const char **names = HLM_ARENA_ARRAY(arena, const char *, count + 1);
    for (int i = 0; i < count; i++) {
        names[i] = hlm_builtin_at(folder, i)->name;
    }
    return hlm_opt_nearest(name, names);
}

enum hlm_status hlm_resolve_builtin(struct hlm_arena *arena, const char *folder, const char *what,
                                    const char *name, const struct hlm_builtin **out,
                                    struct hlm_err *err)
{
    const struct hlm_builtin *found = hlm_builtin_find(folder, name), *row = NULL;
    int matches = found == NULL ? 0 : 1;
    const bool exact = found != NULL;
    for (int i = 0; !exact && name[0] != '\0' && (row = hlm_builtin_at(folder, i)) != NULL; i++) {
        if (starts_with(row->name, name)) {
            found = row;
            matches++;
        }
    }
    if (matches == 1) {
        *out = found;
        return HLM_OK;
    }
    if (matches > 1) {
        return hlm_fail(err, HLM_INPUT, "%s \"%.100s\" is ambiguous: %s", what, name,
                        list_matches(arena, folder, name));
    }
    const char *nearest = nearest_name(arena, folder, name);
    return hlm_fail(err, HLM_INPUT, "no %s \"%.100s\"%s%s%s (built in: %s)", what, name,
                    nearest == NULL ? "" : ", did you mean ", nearest == NULL ? "" : nearest,
                    nearest == NULL ? "" : "?", list_matches(arena, folder, ""));
}

bool hlm_resolve_is_path(const char *text)
{
    const size_t length = strlen(text);
    const bool is_json = length >= 5 && strcmp(text + length - 5, ".json") == 0;
    return is_json || strchr(text, '/') != NULL || strcmp(text, "-") == 0;
}
