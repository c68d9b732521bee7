#ifndef POOL_H
#define POOL_H

/* Calls task(context, i) for each i below count, in any order, on at most `threads` threads. */
void share(void (*task)(void *context, long i), void *context, long count, int threads);

#endif
