/* Threads that sleep while there is nothing to do, and that nobody waits for before they have come.
 *
 * The caller takes one piece of work after the other, and so does each thread that has woken up meanwhile. One that the
 * system keeps waiting finds nothing left and sleeps on: on a busy machine the caller does all by itself. At the end it
 * waits, asleep, for the pieces that others are at.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "pool.h"

enum { MOST_THREADS = 256, STACK = 4 << 20 };

static pthread_mutex_t callers = PTHREAD_MUTEX_INITIALIZER, lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t called = PTHREAD_COND_INITIALIZER, finished = PTHREAD_COND_INITIALIZER;
static int started, places, inside; /* threads there are, that may still join in, and that are at work */
static void (*work)(void *, long);
static void *of;
static long pieces;
static atomic_long taken;

static void take_pieces(void)
{
    for (long i; (i = atomic_fetch_add(&taken, 1)) < pieces;)
        work(of, i);
}

static void *helper(void *unused)
{
    pthread_mutex_lock(&lock);
    for (;;) {
        while (!places)
            pthread_cond_wait(&called, &lock);
        places--;
        inside++;
        pthread_mutex_unlock(&lock);
        take_pieces();
        pthread_mutex_lock(&lock);
        if (!--inside)
            pthread_cond_signal(&finished);
    }
    return unused;
}

/* A child process has the memory of its parent, but none of its threads. */
static void in_child(void)
{
    pthread_mutex_t free_mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t free_condition = PTHREAD_COND_INITIALIZER;
    callers = lock = free_mutex;
    called = finished = free_condition;
    started = places = inside = 0;
}

static void start_until(int wanted)
{
    static int prepared;
    pthread_attr_t attributes;
    pthread_t thread;
    if (started >= wanted)
        return;
    if (!prepared)
        prepared = !pthread_atfork(NULL, NULL, in_child);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    while (started < wanted && !pthread_create(&thread, &attributes, helper, NULL))
        started++;
    pthread_attr_destroy(&attributes);
}

void share(void (*task)(void *, long), void *context, long count, int threads)
{
    int helpers = (threads < count ? threads : count) - 1;
    if (helpers > MOST_THREADS)
        helpers = MOST_THREADS;
    if (helpers < 1 || pthread_mutex_trylock(&callers)) { /* or others are being helped */
        for (long i = 0; i < count; i++)
            task(context, i);
        return;
    }
    pthread_mutex_lock(&lock);
    start_until(helpers);
    work = task;
    of = context;
    pieces = count;
    atomic_store(&taken, 0);
    places = helpers;
    pthread_mutex_unlock(&lock);
    for (int i = 0; i < helpers; i++)
        pthread_cond_signal(&called);
    take_pieces();
    pthread_mutex_lock(&lock);
    places = 0;
    while (inside)
        pthread_cond_wait(&finished, &lock);
    pthread_mutex_unlock(&lock);
    pthread_mutex_unlock(&callers);
}
