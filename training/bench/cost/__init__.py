"""What a loss or an update of the critic costs: time, memory, launches.

    speed       one step of each loss beside VGG16 and the authors' algorithm: time and memory
    large       memory of a step for images up to 4096 pixels a side, and the largest that fit
    critic      an update of the critic on the CPU: autograd against the explicit step
    busy        whole small trainings on a busy machine, by number of threads
    counts      launches, bytes and arithmetic of an update, counted without a GPU
    loss_launches   the same of a step of each loss, beside VGG16 and AlexNet, and its least time
    compile     seconds that torch.compile takes for a loss, by size
    roofline    the least time that these take on a GPU, estimated

``kernels`` has the ways to make an update that ``training.bench.device`` times on a GPU, ``timing`` its clocks.

A new cost is a file with a command here, such as ``speed``. Whatever is timed takes turns (``turns``); peak memory is
in ``memory``. A new way to make an update joins ``counts.WAYS``; a new loss to compare with joins ``speed.LOSSES``;
a new path of the losses joins ``loss_launches.PATHS``.
"""
