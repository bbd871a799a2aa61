/* table: rows of the CSV tables of measured kernels that some oracle tests compare with. They lie
 * outside of the repository; a test skips itself where they are missing. */
#ifndef HLM_TESTS_SUPPORT_TABLE_H
#define HLM_TESTS_SUPPORT_TABLE_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TABLE_FOLDER "../shared/hw"

enum { TABLE_MAX_FIELDS = 40 };

/* Splits a line in place at commas; quoted fields may hold commas. Returns the number of fields. */
static inline int table_split(char *line, char *fields[TABLE_MAX_FIELDS])
{
    int num = 0;
    char *at = line;
    while (num < TABLE_MAX_FIELDS) {
        char *end = NULL;
        if (*at == '"') {
            fields[num++] = ++at;
            end = strchr(at, '"');
            if (end == NULL) {
                return num;
            }
            *end++ = '\0';
        } else {
            fields[num++] = at;
            end = at + strcspn(at, ",\r\n");
        }
        if (*end != ',') {
            *end = '\0';
            return num;
        }
        *end = '\0';
        at = end + 1;
    }
    return num;
}

/* Errors of predictions: collect, then take quantiles. */
struct error_list {
    double *values;
    int num, capacity;
};

static inline void error_add(struct error_list *list, double predicted, double measured)
{
    if (list->num == list->capacity) {
        list->capacity = list->capacity == 0 ? 1024 : 2 * list->capacity;
        list->values = realloc(list->values, (size_t)list->capacity * sizeof *list->values);
        if (list->values == NULL) {
            abort();
        }
    }
    const double error = predicted / measured - 1.0;
    list->values[list->num++] = error < 0.0 ? -error : error;
}

static inline int error_compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static inline double error_quantile(struct error_list *list, double frac)
{
    if (list->num == 0) {
        return HUGE_VAL;
    }
    qsort(list->values, (size_t)list->num, sizeof *list->values, error_compare);
    return list->values[(int)(frac * (double)(list->num - 1) + 0.5)];
}

#endif
