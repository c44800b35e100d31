/* load: requests to an NBD export, as many in flight as asked for, with data from a file; figures as JSON on standard output.
 *
 *   load --uri URI --size BYTES --pattern write|randwrite|read|randread|randrw [--read-percent N] [--block BYTES] [--depth N]
 *        [--connections N] [--shift BYTES] [--seconds S | --once] [--flush-each] [--end-flush] [--pool FILE] [--seed N]
 *        [--interval S]
 *
 * Invariants:
 * - Each connection is a thread with `depth` requests in flight, as a job of fio is. Nothing is copied: payloads are sent from where
 *   the pool is mapped, at a random place for each request.
 * - `--once` writes each block of the export once, in a random order for the random patterns, and then ends; else the load ends
 *   after `seconds`. The order of offsets depends on `--seed` alone (with one connection).
 * - The clock runs from when all connections are made to the last reply, with `--end-flush` to the last reply to FLUSH.
 * - An error of any request ends the program with exit code 1 and one sentence: no figures are better than wrong ones.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <libnbd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "histogram.h"

enum { INTERVALS_MAX = 4096, DEPTH_MAX = 1024, CONNECTIONS_MAX = 256 };
enum kind { READ, WRITE, FLUSH, KINDS };

static struct {
    const char *uri, *pool_path;
    uint64_t size, block, shift, seed;
    int depth, connections, read_percent;
    bool random, once, flush_each, end_flush;
    double seconds, interval;
} asked = {.block = 4096, .depth = 1, .connections = 1, .read_percent = 0, .seconds = 5, .seed = 1};

static const char *pool;
static uint64_t pool_bytes, blocks, deadline, began;
static atomic_uint_fast64_t next_block;
static pthread_barrier_t connected;

struct slot {
    struct connection *of;
    struct slot *next;
    uint64_t since;
    enum kind kind;
    char *buffer;
};

struct connection {
    pthread_t thread;
    struct nbd_handle *nbd;
    struct slot *idle, *written;
    struct slot slots[DEPTH_MAX];
    int in_flight;
    uint64_t random;
    struct histogram kinds[KINDS];
    struct histogram *intervals;
};

static _Noreturn void die(const char *what, const char *why)
{
    fprintf(stderr, "load: %s: %s\n", what, why);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* SplitMix64: any seed is a good one. */
static uint64_t mix(uint64_t value)
{
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
    return value ^ (value >> 31);
}

static uint64_t draw(struct connection *of)
{
    return mix(of->random += 0x9e3779b97f4a7c15u);
}

/* A permutation of 0 .. blocks-1: a Feistel network over the next even number of bits, walked until it lands inside. */
static uint64_t shuffled(uint64_t at)
{
    int half = 1;
    while (half < 31 && (1ull << (2 * half)) < blocks)
        half++;
    uint64_t mask = (1ull << half) - 1;
    do {
        uint64_t left = at >> half, right = at & mask;
        for (uint64_t round = 0; round < 4; round++) {
            uint64_t swapped = left ^ (mix(right + (asked.seed << 40) + (round << 34)) & mask);
            left = right;
            right = swapped;
        }
        at = left << half | right;
    } while (at >= blocks);
    return at;
}

/* libnbd calls it with the connection's lock held: no call of libnbd is allowed here. */
static int completed(void *user, int *error)
{
    struct slot *slot = user;
    struct connection *of = slot->of;
    if (*error)
        die("a request failed", strerror(*error));
    uint64_t now = now_ns(), took = now - slot->since;
    histogram_add(&of->kinds[slot->kind], took);
    if (of->intervals && slot->kind != FLUSH) {
        uint64_t at = (uint64_t)((double)(now - began) / 1e9 / asked.interval);
        if (at < INTERVALS_MAX)
            histogram_add(&of->intervals[at], took);
    }
    of->in_flight--;
    struct slot **list = asked.flush_each && slot->kind == WRITE ? &of->written : &of->idle;
    slot->next = *list;
    *list = slot;
    return 1; /* The command is retired. */
}

static void send_request(struct connection *of, struct slot *slot, enum kind kind, uint64_t offset)
{
    nbd_completion_callback then = {.callback = completed, .user_data = slot};
    int64_t cookie;
    slot->kind = kind;
    slot->since = now_ns();
    of->in_flight++;
    if (kind == FLUSH) {
        cookie = nbd_aio_flush(of->nbd, then, 0);
    } else if (kind == READ) {
        cookie = nbd_aio_pread(of->nbd, slot->buffer, asked.block, offset, then, 0);
    } else {
        /* From a multiple of 512: where a block of a real file could begin. */
        uint64_t from = draw(of) % (pool_bytes - asked.block + 1) & ~511ull;
        cookie = nbd_aio_pwrite(of->nbd, pool + from, asked.block, offset, then, 0);
    }
    if (cookie == -1)
        die("cannot send a request", nbd_get_error());
}

static bool next_offset(struct connection *of, uint64_t *offset)
{
    uint64_t at;
    if (asked.once || !asked.random) {
        at = atomic_fetch_add(&next_block, 1);
        if (asked.once && at >= blocks)
            return false;
        at %= blocks;
        if (asked.random)
            at = shuffled(at);
    } else {
        at = draw(of) % blocks;
    }
    *offset = asked.shift + at * asked.block;
    return asked.once || now_ns() < deadline;
}

static struct slot *take(struct slot **list)
{
    struct slot *first = *list;
    if (first)
        *list = first->next;
    return first;
}

static void *run_connection(void *argument)
{
    struct connection *of = argument;
    bool done = false;
    uint64_t offset;
    of->nbd = nbd_create();
    /* A URI may name the folder of a client's certificate. */
    if (!of->nbd || nbd_set_uri_allow_local_file(of->nbd, true) == -1 || nbd_connect_uri(of->nbd, asked.uri) == -1)
        die("cannot connect", nbd_get_error());
    pthread_barrier_wait(&connected); /* All are there: the main thread sets the clock. */
    pthread_barrier_wait(&connected);
    for (;;) {
        struct slot *slot;
        while ((slot = take(&of->written)))
            send_request(of, slot, FLUSH, 0);
        while (!done && of->idle) {
            done = !next_offset(of, &offset);
            if (done)
                break;
            enum kind kind = (int)(draw(of) % 100) < asked.read_percent ? READ : WRITE;
            send_request(of, take(&of->idle), kind, offset);
        }
        if (!of->in_flight && !of->written)
            break;
        /* A command may have completed already while it was sent: then there is nothing to wait for. */
        if (of->in_flight && !of->written && (done || !of->idle) && nbd_poll(of->nbd, -1) == -1)
            die("the connection broke", nbd_get_error());
    }
    if (asked.end_flush) {
        uint64_t since = now_ns();
        if (nbd_flush(of->nbd, 0) == -1)
            die("the last flush failed", nbd_get_error());
        histogram_add(&of->kinds[FLUSH], now_ns() - since);
    }
    return NULL;
}

static void map_pool(void)
{
    struct stat status;
    int file = open(asked.pool_path, O_RDONLY | O_CLOEXEC);
    if (file == -1 || fstat(file, &status) == -1)
        die(asked.pool_path, strerror(errno));
    pool_bytes = (uint64_t)status.st_size;
    if (pool_bytes < asked.block)
        die(asked.pool_path, "smaller than a request");
    pool = mmap(NULL, pool_bytes, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file, 0);
    if (pool == MAP_FAILED)
        die(asked.pool_path, strerror(errno));
    close(file);
}

static void set_pattern(const char *pattern)
{
    asked.random = strncmp(pattern, "rand", 4) == 0;
    const char *what = asked.random ? pattern + 4 : pattern;
    if (strcmp(what, "read") == 0)
        asked.read_percent = 100;
    else if (strcmp(what, "rw") == 0 && !asked.read_percent)
        asked.read_percent = 70;
    else if (strcmp(what, "write") != 0 && strcmp(what, "rw") != 0)
        die(pattern, "no such pattern");
}

static void read_arguments(int count, char **words)
{
    static const struct option options[] = {
        {"uri", 1, 0, 'u'}, {"size", 1, 0, 's'}, {"pattern", 1, 0, 'p'}, {"read-percent", 1, 0, 'r'}, {"block", 1, 0, 'b'},
        {"depth", 1, 0, 'd'}, {"connections", 1, 0, 'c'}, {"shift", 1, 0, 'o'}, {"seconds", 1, 0, 't'}, {"once", 0, 0, '1'},
        {"flush-each", 0, 0, 'f'}, {"end-flush", 0, 0, 'e'}, {"pool", 1, 0, 'P'}, {"seed", 1, 0, 'S'}, {"interval", 1, 0, 'i'},
        {0, 0, 0, 0}};
    const char *pattern = "randwrite";
    for (int option; (option = getopt_long(count, words, "", options, NULL)) != -1;) {
        switch (option) {
        case 'u': asked.uri = optarg; break;
        case 's': asked.size = strtoull(optarg, NULL, 10); break;
        case 'p': pattern = optarg; break;
        case 'r': asked.read_percent = atoi(optarg); break;
        case 'b': asked.block = strtoull(optarg, NULL, 10); break;
        case 'd': asked.depth = atoi(optarg); break;
        case 'c': asked.connections = atoi(optarg); break;
        case 'o': asked.shift = strtoull(optarg, NULL, 10); break;
        case 't': asked.seconds = atof(optarg); break;
        case '1': asked.once = true; break;
        case 'f': asked.flush_each = true; break;
        case 'e': asked.end_flush = true; break;
        case 'P': asked.pool_path = optarg; break;
        case 'S': asked.seed = strtoull(optarg, NULL, 10); break;
        case 'i': asked.interval = atof(optarg); break;
        default: exit(2);
        }
    }
    set_pattern(pattern);
    if (!asked.uri || !asked.block || asked.size < asked.shift + asked.block)
        die("arguments", "--uri and a --size of a block at least are needed");
    if (asked.depth < 1 || asked.depth > DEPTH_MAX || asked.connections < 1 || asked.connections > CONNECTIONS_MAX)
        die("arguments", "--depth is 1 to 1024, --connections 1 to 256");
    if (asked.read_percent < 100 && !asked.pool_path)
        die("arguments", "--pool is needed for writes");
    blocks = (asked.size - asked.shift) / asked.block;
}

static void prepare(struct connection *of, int number)
{
    of->random = asked.seed * 0x10001 + (uint64_t)number;
    for (int at = 0; at < asked.depth; at++) {
        struct slot *slot = &of->slots[at];
        slot->of = of;
        slot->next = of->idle;
        of->idle = slot;
        if (asked.read_percent && posix_memalign((void **)&slot->buffer, 4096, asked.block))
            die("memory", strerror(ENOMEM));
    }
    if (asked.interval > 0 && !(of->intervals = calloc(INTERVALS_MAX, sizeof *of->intervals)))
        die("memory", strerror(ENOMEM));
}

static void print_intervals(const struct connection *connections, double seconds)
{
    int count = asked.interval > 0 ? (int)(seconds / asked.interval) : 0;
    printf(", \"intervals\": [");
    for (int at = 0; at < count && at < INTERVALS_MAX; at++) {
        static struct histogram sum;
        memset(&sum, 0, sizeof sum);
        for (int each = 0; each < asked.connections; each++)
            histogram_merge(&sum, &connections[each].intervals[at]);
        printf("%s", at ? ",\n " : "");
        histogram_print(&sum);
    }
    printf("]");
}

int main(int count, char **words)
{
    static const char *names[] = {"read", "write", "flush"};
    read_arguments(count, words);
    if (asked.pool_path)
        map_pool();
    struct connection *connections = calloc((size_t)asked.connections, sizeof *connections);
    if (!connections)
        die("memory", strerror(ENOMEM));
    pthread_barrier_init(&connected, NULL, (unsigned)asked.connections + 1);
    for (int each = 0; each < asked.connections; each++) {
        prepare(&connections[each], each);
        if ((errno = pthread_create(&connections[each].thread, NULL, run_connection, &connections[each])))
            die("thread", strerror(errno));
    }
    pthread_barrier_wait(&connected);
    began = now_ns();
    deadline = began + (uint64_t)(asked.seconds * 1e9);
    pthread_barrier_wait(&connected);
    static struct histogram kinds[KINDS];
    for (int each = 0; each < asked.connections; each++) {
        pthread_join(connections[each].thread, NULL);
        for (int kind = 0; kind < KINDS; kind++)
            histogram_merge(&kinds[kind], &connections[each].kinds[kind]);
    }
    double seconds = (double)(now_ns() - began) / 1e9;
    uint64_t requests = kinds[READ].count + kinds[WRITE].count;
    printf("{\"seconds\": %.6f, \"requests\": %" PRIu64 ", \"bytes\": %" PRIu64, seconds, requests, requests * asked.block);
    for (int kind = 0; kind < KINDS; kind++) {
        printf(",\n \"%s\": ", names[kind]);
        histogram_print(&kinds[kind]);
    }
    print_intervals(connections, seconds);
    printf("}\n");
    return 0;
}
