"""One thread a test process: several share the machine's cores."""

import torch

torch.set_num_threads(1)
