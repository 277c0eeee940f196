"""`submit`: a distilled set that somebody else made becomes a record, its claimed accuracy beside ours.

The set is read by `importers`, looked over by `inspect`, and evaluated as our own are: the protocol of the
scale, the same named seeds, the test split opened once. Its record stands under the method
`NAME@submitted`, so that it is never averaged with what this harness distils. Identity is the name, the seed
and the settings; the same images under them are the same record, other images are refused.

Importing this package does not import torch.
"""
