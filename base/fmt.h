/* fmt: numbers for people. Base units (seconds, bytes, FLOP/s) inside and in JSON; only here do
 * they become "3.21 ms", "1.50 GiB", "312 TFLOP/s". Each returns its own buffer by value, so calls
 * can be mixed in one printf. Three significant digits; negative and zero values are fine; a value
 * that is not finite prints as "inf" or "nan". */
#ifndef HLM_BASE_FMT_H
#define HLM_BASE_FMT_H

#include <stdint.h>

struct hlm_fmt {
    char text[40];
};

struct hlm_fmt hlm_fmt_seconds(double seconds);         /* ns us ms s, min from 600 s, h */
struct hlm_fmt hlm_fmt_bytes(double bytes);             /* B KiB MiB GiB TiB */
struct hlm_fmt hlm_fmt_flops(double flops);             /* FLOP .. PFLOP EFLOP, powers of 1000 */
struct hlm_fmt hlm_fmt_flops_per_s(double flops_per_s); /* GFLOP/s .. EFLOP/s */
struct hlm_fmt hlm_fmt_bytes_per_s(double bytes_per_s); /* MB/s GB/s TB/s, powers of 1000 */
struct hlm_fmt hlm_fmt_percent(double fraction);        /* 0.0123 -> "1.23 %" */
struct hlm_fmt hlm_fmt_count(double count);             /* 12.3 K, 1.50 M, 175 B, 1.01 T */
struct hlm_fmt hlm_fmt_int(int64_t value);              /* 1,234,567 */

#endif
