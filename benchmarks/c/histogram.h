/* Latencies in buckets that grow with them: 64 for each power of two, so that a value read back is at most 1.6 % off.
 *
 * All values are nanoseconds. Adding costs a few instructions and never fails; nothing here is safe for two threads at once.
 */
#ifndef HISTOGRAM_H
#define HISTOGRAM_H

#include <stdint.h>
#include <stdio.h>

enum { SUB_BITS = 6, SUB = 1 << SUB_BITS, BUCKETS = SUB * (64 - SUB_BITS + 1) };

struct histogram {
    uint64_t count;
    uint64_t largest;
    uint64_t buckets[BUCKETS];
};

static inline void histogram_add(struct histogram *into, uint64_t value)
{
    unsigned at = (unsigned)value;
    if (value >= SUB) {
        unsigned power = 63 - (unsigned)__builtin_clzll(value);
        at = SUB + (power - SUB_BITS) * SUB + (unsigned)((value >> (power - SUB_BITS)) & (SUB - 1));
    }
    into->buckets[at]++;
    into->count++;
    if (value > into->largest)
        into->largest = value;
}

static inline void histogram_merge(struct histogram *into, const struct histogram *from)
{
    into->count += from->count;
    if (from->largest > into->largest)
        into->largest = from->largest;
    for (unsigned at = 0; at < BUCKETS; at++)
        into->buckets[at] += from->buckets[at];
}

/* The smallest value that a bucket holds. */
static inline uint64_t histogram_floor(unsigned at)
{
    if (at < SUB)
        return at;
    return (uint64_t)(SUB + at % SUB) << (at / SUB - 1);
}

/* The value that `share` (0 to 1) of all values do not exceed; 0 of none. */
static inline uint64_t histogram_quantile(const struct histogram *from, double share)
{
    uint64_t wanted = (uint64_t)(share * (double)from->count), seen = 0;
    for (unsigned at = 0; at < BUCKETS; at++) {
        seen += from->buckets[at];
        if (seen > wanted || (seen && seen == from->count))
            return histogram_floor(at);
    }
    return 0;
}

static inline void histogram_print(const struct histogram *from)
{
    printf("{\"count\": %llu, \"p50_ns\": %llu, \"p99_ns\": %llu, \"p999_ns\": %llu, \"max_ns\": %llu}",
           (unsigned long long)from->count, (unsigned long long)histogram_quantile(from, 0.5),
           (unsigned long long)histogram_quantile(from, 0.99), (unsigned long long)histogram_quantile(from, 0.999),
           (unsigned long long)from->largest);
}

#endif
