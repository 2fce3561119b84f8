"""One pass of the staircase: the model runs on the clean tokens, and hooks fork rows off at every layer.

The model is called once. A hook on each layer calls the layer's `forward` again, with the same arguments, for the
rows that entered below it: rotary tables, masks, cache and positions are whatever the model just passed, so no
layer's signature is known here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers.cache_utils import DynamicCache

from .heads import LinearHead
from .shared_prefix import filling, positions_argument
from .sites import answer_values, uncached


@dataclass
class Injection:
    """Rows that enter behind one layer's down-projection: their prompts [m] and outputs [m, width] at the position."""

    prompts: torch.Tensor
    outputs: torch.Tensor


class Pass:
    """One call of the model on the clean tokens, with rows forked off at every layer.

    Row order at the head: the clean row of each site, then the shared rows, then the injected ones by layer.
    `shared` = (sites, layers): rows of the clean tokens that carry gradients, for the paths' common end.
    """

    def __init__(self, batch, injections: dict[int, Injection], shared):
        self.batch, self.model, self.injections = batch, batch.model, dict(injections)
        self.sites = len(batch.sites)
        self.shared_sites, self.shared_layers = shared if shared else (None, [])
        self.neurons: dict[int, torch.Tensor] = {}
        self.outputs: dict[int, torch.Tensor] = {}
        self.leaves: dict[int, torch.Tensor] = {}
        self.row_outputs: dict[int, torch.Tensor] = {}
        self.places: dict[int, slice] = {}
        self.shared_rows = slice(0, 0)
        self.rows, self.prompts, self.in_rows, self.fresh = None, None, False, None

    def run(self) -> torch.Tensor:
        """Log-values of all rows, [sites + rows]; 0 for the clean ones beside others."""
        values = self.forward()()
        return torch.cat([values.new_zeros(self.sites), values]) if self._skips_clean else values

    def forward(self, cache: DynamicCache | None = None) -> Callable[[], torch.Tensor]:
        """Run all but the head; the function that is returned runs it, for the rows' log-values.

        `cache`: filled with the clean tokens' keys and values.
        """
        model, batch = self.model, self.batch
        handles = [model.base.register_forward_hook(self._pick)]
        for i, (layer, projection) in enumerate(zip(model.layers, model.down_projections, strict=True)):
            handles.append(layer.register_forward_hook(self._layer_hook(i), with_kwargs=True))
            handles.append(projection.register_forward_hook(self._projection_hook(i)))
        head = LinearHead(model) if batch.plan.linear_head else None
        try:
            if head:
                handles.append(head.capture())
            if batch.prefix is None:
                positions = positions_argument(model, batch.mask) if model.kind == "causal" else {}
                caching = uncached(model) if cache is None else filling(cache)
                logits = model.network(input_ids=batch.ids, attention_mask=batch.mask, **positions, **caching).logits
            else:
                batch.prefix.rows = None
                with batch.prefix.attention(), batch.clean_products.reused(lambda: self.in_rows):
                    logits = model.network(input_ids=batch.ids[:, -1:], attention_mask=batch.mask, use_cache=True,
                                           past_key_values=batch.prefix.cache(),
                                           **positions_argument(model, batch.mask, last=1)).logits  # fmt: skip
        finally:
            for handle in handles:
                handle.remove()
        rows = self._head_prompts()
        if head:
            return lambda: head.values(batch.sites, rows, batch.objective)
        return lambda: answer_values(logits[:, 0], batch.sites, rows, batch.objective)

    @property
    def _skips_clean(self) -> bool:
        """The head is large, and what it makes of the clean rows is asked of the first pass, which has no others."""
        return self.prompts is not None

    def _head_prompts(self) -> torch.Tensor:
        if self._skips_clean:
            return self.prompts
        clean = torch.arange(self.sites, device=self.batch.ids.device)
        return clean if self.prompts is None else torch.cat([clean, self.prompts])

    def gradients(self, values: torch.Tensor) -> tuple[dict, dict]:
        """Gradients of the rows' log-values at their own layer's output, and of the shared rows at each layer's."""
        order = sorted(self.leaves)
        found = torch.autograd.grad(
            values.sum(), [self.leaves[i] for i in order] + [self.row_outputs[i] for i in sorted(self.row_outputs)]
        )
        own = dict(zip(order, found, strict=False))
        ends, first = {}, self.shared_layers[0] if self.shared_layers else None
        if first is not None:
            count = len(self.shared_sites)
            ends[first], own[first] = own[first][:count], own[first][count:]
            columns = self.batch.columns[self.shared_sites]
            for i, gradient in zip(sorted(self.row_outputs), found[len(order) :], strict=True):
                gradient = gradient.reshape(-1, self.batch.tokens, gradient.shape[-1])
                ends[i] = gradient[torch.arange(count, device=columns.device), columns]
        return own, ends

    # Hooks, in the order in which a layer's call meets them.

    def _projection_hook(self, i: int):
        def hook(module, inputs, output):
            tokens = self.batch.tokens
            if self.in_rows:
                return self._rows_output(i, output)
            hidden = output.reshape(self.sites, tokens, -1)
            which = torch.arange(self.sites, device=output.device)
            columns = self.batch.columns.to(output.device)
            self.neurons[i] = inputs[0].reshape(self.sites, tokens, -1)[which, columns].detach()
            self.outputs[i] = hidden[which, columns].detach()
            self._enter_shared(i)
            if i not in self.injections:
                return output
            enter = self.injections[i]
            leaf = enter.outputs.detach().to(output.device).requires_grad_(torch.is_grad_enabled())
            self.leaves[i] = leaf
            if not self.batch.plan.broadcast:
                return output
            return self._broadcast(hidden, enter.prompts.to(output.device), leaf, columns)

        return hook

    def _enter_shared(self, i: int) -> None:
        """The shared rows enter with the first of their layers, before that layer's own rows."""
        if not self.shared_layers or i != self.shared_layers[0]:
            return
        outputs, own = self.outputs[i][self.shared_sites], self.injections.get(i)
        prompts = self.shared_sites
        if own is not None:
            outputs, prompts = torch.cat([outputs, own.outputs]), torch.cat([prompts, own.prompts])
        self.injections[i] = Injection(prompts, outputs)

    def _broadcast(self, hidden, prompts, leaf, columns) -> torch.Tensor:
        """[1 + most, sites, tokens, width]: the clean output, and beside each site its rows' outputs (then filler)."""
        counts = torch.bincount(prompts, minlength=self.sites)
        order = torch.argsort(prompts, stable=True)
        first = counts.cumsum(0) - counts
        slot = torch.empty_like(prompts)
        slot[order] = torch.arange(len(prompts), device=prompts.device) - first[prompts[order]] + 1
        self.fresh = (slot, prompts)
        stack = hidden.detach().expand(int(counts.max()) + 1, *hidden.shape).clone()
        return stack.index_put((slot, prompts, columns[prompts]), leaf)

    def _rows_output(self, i: int, output: torch.Tensor) -> torch.Tensor:
        if self.fresh is not None:
            # Copies: the last rows of this call are new ones, whose output at the position is injected.
            count, shape = len(self.fresh), output.shape
            hidden = output.reshape(-1, self.batch.tokens, shape[-1])
            which = torch.arange(len(hidden) - count, len(hidden), device=output.device)
            columns = self.batch.columns.to(output.device)[self.fresh]
            output = hidden.index_put((which, columns), self.leaves[i]).reshape(shape)
        if i in self.shared_layers and i != self.shared_layers[0]:
            self.row_outputs[i] = output
        return output

    def _layer_hook(self, i: int):
        def hook(module, args, kwargs, result):
            if self.in_rows:
                return None
            output = result[0] if isinstance(result, tuple) else result
            enter = self.injections.get(i)
            new = None
            if enter is not None and self.batch.plan.broadcast:
                slot, prompts = self.fresh
                new, output, self.fresh = output[slot, prompts], output[0].detach(), None
            self._advance(i, module, args, kwargs, new, enter)
            if i == self.model.n_layers - 1 and self.rows is not None:
                output = torch.cat([output, self.rows.to(output.device)])
            return (output, *result[1:]) if isinstance(result, tuple) else output

        return hook

    def _advance(self, i: int, module, args, kwargs, new, enter: Injection | None) -> None:
        """Take the rows through layer i, then let its new rows join."""
        copies = enter is not None and not self.batch.plan.broadcast
        if self.rows is not None or copies:
            hidden = args[0] if args else kwargs["hidden_states"]
            rows, prompts = self.rows, self.prompts
            if copies:
                self.fresh = enter.prompts.to(hidden.device)
                start = hidden.detach()[self.fresh]
                rows = start if rows is None else torch.cat([rows.to(hidden.device), start])
                prompts = self.fresh if prompts is None else torch.cat([prompts.to(hidden.device), self.fresh])
            self.rows = self._call(module, rows.to(hidden.device), prompts.to(hidden.device), args, kwargs)
            self.fresh = None
        if enter is None:
            return
        if new is not None:
            self.rows = new if self.rows is None else torch.cat([self.rows, new])
        old = 0 if self.prompts is None else len(self.prompts)
        prompts = enter.prompts.to(self.rows.device)
        self.prompts = prompts if self.prompts is None else torch.cat([self.prompts, prompts])
        start = self.sites + old
        if self.shared_layers and i == self.shared_layers[0]:
            self.shared_rows = slice(start, start + len(self.shared_sites))
            start = self.shared_rows.stop
        self.places[i] = slice(start, self.sites + len(self.prompts))

    def _call(self, module, rows, prompts, args, kwargs) -> torch.Tensor:
        """The layer on the rows, with every per-prompt argument indexed by row."""
        take = _Take(prompts, self.sites, self.model.network.config.get_text_config())
        args = tuple(take(a) for a in args[1:]) if args else ()
        kwargs = {name: take(a) for name, a in kwargs.items() if name != "hidden_states"}
        self.in_rows = True
        if self.batch.prefix is not None:
            self.batch.prefix.rows = prompts
        try:
            result = module.forward(rows, *args, **kwargs)
        finally:
            self.in_rows = False
            if self.batch.prefix is not None:
                self.batch.prefix.rows = None
        return result[0] if isinstance(result, tuple) else result

    def _pick(self, module, inputs, output):
        """Only the site's position goes on to the head."""
        hidden = output[0][self.sites :] if self._skips_clean else output[0]
        rows = self._head_prompts().to(hidden.device)
        picked = hidden[torch.arange(len(rows), device=hidden.device), self.batch.columns.to(hidden.device)[rows]][
            :, None
        ]
        if isinstance(output, tuple):
            return (picked, *output[1:])
        output.last_hidden_state = picked
        return output


class _Take:
    """Indexes whatever a layer is given by the rows' prompts; what is not per prompt stays."""

    def __init__(self, prompts: torch.Tensor, sites: int, config):
        self.prompts, self.sites, self.heads = prompts, sites, getattr(config, "num_attention_heads", 0)

    def __call__(self, value):
        if isinstance(value, tuple | list):
            return type(value)(self(v) for v in value)
        if not isinstance(value, torch.Tensor) or value.ndim < 2:
            return value
        if self.sites == 1:
            return value  # broadcasts
        if value.shape[0] == self.sites:
            return value[self.prompts.to(value.device)]
        if value.ndim == 3 and value.shape[0] == self.sites * self.heads:
            # ALiBi of BLOOM: [prompts * heads, 1, keys].
            apart = value.view(self.sites, self.heads, *value.shape[1:])
            return apart[self.prompts.to(value.device)].flatten(0, 1)
        return value
