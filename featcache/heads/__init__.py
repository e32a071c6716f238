"""A fitted run as something to use: a file that classifies raw embeddings or images, wherever featcache is.

`head` says what one is, `files` how it is kept, `keeping` which ones a search leaves behind, `exporting` how a result
becomes one, `module` how it computes, `predicting` what it says of images.
"""
