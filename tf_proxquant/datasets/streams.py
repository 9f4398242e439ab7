"""Windows of running text for truncated back-propagation."""

import keras
import numpy as np


class Streams(keras.utils.PyDataset):
    """Feeds a stateful language model: window i + 1 goes on where window i ended.

    The text is cut into `batch_size` streams of one length, read side by side. Each word is
    predicted from the one before it, the first of the text from `first`. The last window is
    padded; its third array, the weights, is 0 there. A training set leaves it out instead.

    Args:
      words: int array (n,), a text.
      batch_size: int >= 1, streams.
      steps: int >= 1, words of a window.
      first: int, the word before the text.
      drop_last: True leaves the padded window out, and with it up to batch_size * steps words;
        batches are then pairs.

    Raises: ValueError: if the text is shorter than one window of each stream and `drop_last`.
    """

    def __init__(
        self,
        words: np.ndarray,
        batch_size: int,
        steps: int,
        *,
        first: int = 0,
        drop_last: bool = False,
    ):
        super().__init__()
        words = np.asarray(words, "int32")
        length = len(words) // batch_size if drop_last else -(-len(words) // batch_size)
        windows = length // steps if drop_last else -(-length // steps)
        if not windows:
            raise ValueError(
                f"The text must have at least batch_size * steps = {batch_size * steps} words. "
                f"Received: {len(words)}. Pass a smaller batch_size."
            )
        self.batch_size, self.steps, self.num_windows = batch_size, steps, windows
        self.drop_last = drop_last
        used = words[: batch_size * length]
        inputs = np.concatenate([[first], used[:-1]]).astype("int32")
        self._inputs, self._targets = self._cut(inputs, length), self._cut(used, length)
        self._weights = self._cut(np.ones(len(used), "float32"), length)

    def _cut(self, values, length):
        """(batch_size, windows * steps): one stream per row, padded with 0 or cut off."""
        rows = np.zeros((self.batch_size, length), values.dtype)
        rows.reshape(-1)[: len(values)] = values
        wanted = self.num_windows * self.steps
        return np.pad(rows[:, :wanted], ((0, 0), (0, max(0, wanted - length))))

    def __len__(self):
        return self.num_windows

    def __getitem__(self, index):
        """Returns window `index`: words in, words to predict, and unless `drop_last` weights."""
        window = slice(index * self.steps, (index + 1) * self.steps)
        batch = self._inputs[:, window], self._targets[:, window], self._weights[:, window]
        return batch[:2] if self.drop_last else batch
