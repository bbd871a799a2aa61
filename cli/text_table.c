#include "cli/text_table.h"

#include <stdbool.h>
#include <string.h>

void hlm_text_table_init(struct hlm_text_table *table, struct hlm_arena *arena,
                         const char *const *headers)
{
    *table = (struct hlm_text_table){.arena = arena, .headers = headers};
    while (headers[table->num_columns] != NULL) {
        table->num_columns++;
    }
}

static void grow(struct hlm_text_table *table)
{
    const int capacity = table->capacity == 0 ? 16 : 2 * table->capacity;
    const char **cells = HLM_ARENA_ARRAY(table->arena, const char *, capacity * table->num_columns);
    for (int i = 0; i < table->num_rows * table->num_columns; i++) {
        cells[i] = table->cells[i];
    }
    table->cells = cells;
    table->capacity = capacity;
}

void hlm_text_table_add(struct hlm_text_table *table, const char *const *cells)
{
    if (table->num_rows == table->capacity) {
        grow(table);
    }
    for (int column = 0; column < table->num_columns; column++) {
        table->cells[table->num_rows * table->num_columns + column] =
            hlm_arena_strdup(table->arena, cells[column]);
    }
    table->num_rows++;
}

static bool is_number_column(const struct hlm_text_table *table, int column)
{
    return table->headers[column][0] == '>';
}

static const char *header_text(const struct hlm_text_table *table, int column)
{
    return table->headers[column] + (is_number_column(table, column) ? 1 : 0);
}

static int column_width(const struct hlm_text_table *table, int column)
{
    size_t width = strlen(header_text(table, column));
    for (int row = 0; row < table->num_rows; row++) {
        const size_t length = strlen(table->cells[row * table->num_columns + column]);
        width = length > width ? length : width;
    }
    return (int)width;
}

/* No blanks at the end of a line. */
static void print_cell(const struct hlm_text_table *table, FILE *out, int column, int width,
                       const char *text)
{
    const bool is_last = column + 1 == table->num_columns;
    if (is_number_column(table, column)) {
        fprintf(out, "%*s%s", width, text, is_last ? "" : "  ");
    } else if (is_last) {
        fprintf(out, "%s", text);
    } else {
        fprintf(out, "%-*s  ", width, text);
    }
}

void hlm_text_table_print(const struct hlm_text_table *table, FILE *out, int indent)
{
    int *widths = HLM_ARENA_ARRAY(table->arena, int, table->num_columns);
    for (int column = 0; column < table->num_columns; column++) {
        widths[column] = column_width(table, column);
    }
    for (int row = -1; row < table->num_rows; row++) {
        fprintf(out, "%*s", indent, "");
        for (int column = 0; column < table->num_columns; column++) {
            print_cell(table, out, column, widths[column],
                       row < 0 ? header_text(table, column)
                               : table->cells[row * table->num_columns + column]);
        }
        fprintf(out, "\n");
    }
}
