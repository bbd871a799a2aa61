#include "profiles/builtin.h"

#include <string.h>

#include "profiles/builtin_table.h"

const struct hlm_builtin *hlm_builtin_find(const char *folder, const char *name)
{
    for (const struct hlm_builtin *row = hlm_builtin_table; row->folder != NULL; row++) {
        if (strcmp(row->folder, folder) == 0 && strcmp(row->name, name) == 0) {
            return row;
        }
    }
    return NULL;
}

const struct hlm_builtin *hlm_builtin_at(const char *folder, int index)
{
    int seen = 0;
    for (const struct hlm_builtin *row = hlm_builtin_table; row->folder != NULL; row++) {
        if (strcmp(row->folder, folder) != 0) {
            continue;
        }
        if (seen == index) {
            return row;
        }
        seen++;
    }
    return NULL;
}
